//! The API server goes away for a while, and comes back without the launcher's token.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use neva_tests::{finish, small::words, start, wait_for};

use crate::{
    cluster::Cluster,
    output::{check_once, check_whole, printing},
    refusals::SOON,
    watched::Watched,
};

#[test]
fn nothing_is_lost_while_the_api_server_is_away() {
    let cluster = Cluster::start("away", 1);
    let space = cluster.space("away");
    let executor = space.executor("kubernetes", "request_timeout_s: 5");
    let arguments = printing(&space, "run", 600);
    let launcher = start(space.neva_run(&words(&arguments, &["--executor", &executor])));
    let run = wait_for("a run", || space.newest("run"));
    wait_for("steps", || (space.steps(&run) > 10).then_some(()));
    cluster.node("apiserver", "crash");
    let before = space.steps(&run);
    sleep(Duration::from_secs(30));
    cluster.node("apiserver", "start");
    assert!(space.steps(&run) > before, "the ranks went on without the API server");
    let ended = finish(launcher).with_code(0);
    check_whole(&ended, 600);
    assert!(ended.stderr.contains("connection"), "the loss is reported: {}", ended.stderr);
    space.delete_jobs();

    // A token that expires during a watch: the server keeps open watches, and refuses the next connection.
    let _ = space.account("user", "[{apiGroups: ['', batch], resources: ['*'], verbs: ['*']}]");
    let seconds = 25;
    let kubeconfig = space.with_token("user", &cluster.token(&space.name, "user", seconds));
    let expiry = Instant::now() + Duration::from_secs(seconds.into());
    let arguments = printing(&space, "expired", 1_000_000);
    let mut command = space.neva_run(&words(&arguments, &["--executor", &executor]));
    command.env("KUBECONFIG", &kubeconfig);
    let mut launcher = Watched::start(command);
    let run = wait_for("a run", || space.newest("expired"));
    wait_for("steps", || (space.steps(&run) > 10).then_some(()));
    sleep(expiry.saturating_duration_since(Instant::now()) + Duration::from_secs(1));
    cluster.node("apiserver", "crash");
    cluster.node("apiserver", "start");
    launcher.wait(&["Unauthorized"], Instant::now() + SOON);
    // The file has a new token: the watch goes on.
    let _ = space.with_token("user", &cluster.token(&space.name, "user", 600));
    let before = space.steps(&run);
    wait_for("a restored connection", || (space.steps(&run) > before + 20).then_some(()));
    launcher.wait(&["connection restored"], Instant::now() + Duration::from_secs(60));
    let ended = launcher.stop().with_code(1);
    assert!(check_once(&ended) as usize > before, "{}", ended.stderr);
}
