//! The API server goes away for a while; several launchers watch one job; a launcher is killed.

use std::{
    collections::BTreeSet,
    thread::sleep,
    time::{Duration, Instant},
};

use neva_tests::{
    Ended, finish,
    small::{newest, small, steps, words},
    start, wait_for,
};

use crate::{
    cluster::{Cluster, Space},
    watched::Watched,
};

/// Returns the numbers of the steps in an output, in order. Lines of experiments begin with the name of the task.
fn numbers(output: &str) -> Vec<u32> {
    let lines = output.lines().filter_map(|line| line.split_once("step "));
    lines.filter_map(|(_, rest)| rest.split('/').next()?.parse().ok()).collect()
}

/// Checks that each step up to the last was printed once, and returns the last.
#[track_caller]
fn check_once(ended: &Ended) -> u32 {
    let numbers = numbers(&ended.stdout);
    let all: BTreeSet<_> = numbers.iter().copied().collect();
    assert_eq!(numbers.len(), all.len(), "a line was printed twice: {numbers:?}");
    let last = all.last().copied().unwrap_or_default();
    assert_eq!(all.len(), last as usize, "lines are missing: {numbers:?}\n{}", ended.stderr);
    last
}

/// Checks that each of `steps` steps was printed once.
#[track_caller]
fn check_whole(ended: &Ended, steps: u32) {
    assert_eq!(check_once(ended), steps, "{}\n{}", ended.stdout, ended.stderr);
}

fn arguments(space: &Space<'_>, steps: u32) -> Vec<String> {
    let max = format!("finetune.trainer.max_steps={steps}");
    small(&space.runs(), "run", &[&max, "finetune.trainer.log_every_n_steps=1"])
}

#[test]
fn nothing_is_lost_while_the_api_server_is_away() {
    let cluster = Cluster::start("away", 1);
    let space = cluster.space("away");
    let executor = space.executor("kubernetes", "request_timeout_s: 5");
    let arguments = arguments(&space, 600);
    let launcher = start(space.neva_run(&words(&arguments, &["--executor", &executor])));
    let run = wait_for("a run", || newest(&space.runs(), "run"));
    wait_for("steps", || (steps(&run) > 10).then_some(()));
    cluster.node("apiserver", "crash");
    let before = steps(&run);
    sleep(Duration::from_secs(30));
    cluster.node("apiserver", "start");
    assert!(steps(&run) > before, "the ranks went on without the API server");
    let ended = finish(launcher).with_code(0);
    check_whole(&ended, 600);
    assert!(ended.stderr.contains("connection"), "the loss is reported: {}", ended.stderr);
    let _ = space.kubectl(&["delete", "jobs", "--all"]);

    // A token that expires during a watch: the server keeps open watches, and refuses the next connection.
    let _ = space.account("user", "[{apiGroups: ['', batch], resources: ['*'], verbs: ['*']}]");
    let seconds = 25;
    let kubeconfig = space.with_token("user", &cluster.token(&space.name, "user", seconds));
    let expiry = Instant::now() + Duration::from_secs(seconds.into());
    let mut arguments = small(&space.runs(), "expired", &["finetune.trainer.max_steps=1000000"]);
    arguments.extend(["--executor".to_owned(), executor]);
    let mut command = space.neva_run(&words(&arguments, &[]));
    command.env("KUBECONFIG", &kubeconfig);
    let mut launcher = Watched::start(command);
    let run = wait_for("a run", || newest(&space.runs(), "expired"));
    wait_for("steps", || (steps(&run) > 10).then_some(()));
    sleep(expiry.saturating_duration_since(Instant::now()) + Duration::from_secs(1));
    cluster.node("apiserver", "crash");
    cluster.node("apiserver", "start");
    launcher.wait(&["Unauthorized"], Instant::now() + Duration::from_secs(20));
    // The file has a new token: the watch goes on.
    let _ = space.with_token("user", &cluster.token(&space.name, "user", 600));
    let before = steps(&run);
    wait_for("a restored connection", || (steps(&run) > before + 20).then_some(()));
    launcher.wait(&["connection restored"], Instant::now() + Duration::from_secs(60));
    let ended = launcher.stop().with_code(1);
    assert!(check_once(&ended) as usize > before, "{}", ended.stderr);
}

/// Returns the status of the experiment `name` once it contains `text`.
fn status(space: &Space<'_>, name: &str, text: &str) -> String {
    wait_for(text, || {
        let status = space.run(&["experiment", "status", name]);
        status.stdout.contains(text).then_some(status.stdout)
    })
}

/// Writes an experiment of one fine-tune, and returns its file.
fn experiment(space: &Space<'_>, name: &str, steps: u32) -> String {
    let text = format!(
        "name: {name}\ntasks:\n  train:\n    task:\n      _factory_: neva_tiny\n      finetune:\n        \
         trainer: {{max_steps: {steps}, log_every_n_steps: 1, threads_per_rank: 1, val_check_interval: null}}\n        model:\n          \
         text_config: {{hidden_size: 32, intermediate_size: 48, num_hidden_layers: 2}}\n          \
         vision_config: {{hidden_size: 32, intermediate_size: 48, image_size: 28}}\n        \
         data: {{seq_length: 16, micro_batch_size: 2, global_batch_size: 4}}\n        log: {{tensorboard: false}}\n"
    );
    space.write(&format!("{name}.experiment.yaml"), &text)
}

#[test]
fn two_processes_watch_one_job() {
    let cluster = Cluster::shared();
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
    let cluster = Cluster::shared();
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
