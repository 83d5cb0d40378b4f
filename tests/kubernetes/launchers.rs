//! Several launchers and one job.

use neva_tests::{finish, start};

use crate::{
    cluster::Cluster,
    output::{check_whole, experiment, status},
};

#[test]
fn two_processes_watch_one_job() {
    let cluster = Cluster::any();
    let space = cluster.space("watched");
    let executor = space.executor("kubernetes", "");
    let file = experiment(&space, "watched", 300);
    let launcher = start(space.neva_run(&[&file, "--executor", &executor]));
    let _ = status(&space, "watched", "running");
    let follow = || start(space.neva_run(&["experiment", "logs", "watched", "--follow"]));
    let followers = [follow(), follow()];
    let _ = finish(launcher).with_code(0);
    for follower in followers {
        check_whole(&finish(follower).with_code(0), 300);
    }
}

#[test]
fn a_killed_launcher_is_replaced() {
    let cluster = Cluster::any();
    let space = cluster.space("killed");
    let executor = space.executor("kubernetes", "");
    let file = experiment(&space, "killed", 300);
    let mut launcher = start(space.neva_run(&[&file, "--executor", &executor]));
    let _ = status(&space, "killed", "runs on");
    launcher.kill().unwrap();
    let _ = launcher.wait().unwrap();
    // Another process finds the job, which goes on.
    let _ = status(&space, "killed", "interrupted");
    let seen = status(&space, "killed", "succeeded");
    assert!(seen.contains("interrupted"), "{seen}");
    let _ = space.run(&["experiment", "resume", "killed"]).with_code(0);
    check_whole(&space.run(&["experiment", "logs", "killed"]).with_code(0), 300);
    assert_eq!(space.objects("jobs").len(), 1, "the job of the first launcher was found");
}
