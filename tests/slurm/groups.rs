//! The tasks of a group share one job: an allocation, or a heterogeneous job.

use std::{
    fs,
    path::{Path, PathBuf},
};

use neva_tests::{finish, start, wait_for};

use crate::{
    cluster::Cluster,
    experiments::{self, command, experiment, jobs},
};

/// Writes an experiment with a group of two scripts; returns its folder.
fn pair(cluster: &Cluster, name: &str, first: &str, second: &str) -> PathBuf {
    let dir = cluster.dir.path().join(name);
    fs::create_dir(&dir).unwrap();
    let text = format!(
        "name: pair\ngroups: {{both: [train, serve]}}\ntasks:\n  train:\n    task: {{_target_: run.Script, inline: \"{first}\"}}\n  \
         serve:\n    task: {{_target_: run.Script, inline: \"{second}\"}}\n"
    );
    fs::write(dir.join("pair.yaml"), text).unwrap();
    dir
}

/// Text of a script that creates one file and waits for another.
fn meet(dir: &Path, own: &str, other: &str) -> String {
    let (own, other) = (dir.join(own), dir.join(other));
    format!(
        "touch {}; for i in $(seq 600); do [ -e {1} ] && break; sleep 0.1; done; [ -e {1} ]",
        own.display(),
        other.display()
    )
}

/// Runs a group whose tasks wait for each other. Returns the number of its job.
fn meeting(cluster: &Cluster, name: &str, lines: &str) -> String {
    let at = cluster.dir.path().to_owned();
    let (first, second) = (
        meet(&at, &format!("{name}.a"), &format!("{name}.b")),
        meet(&at, &format!("{name}.b"), &format!("{name}.a")),
    );
    let dir = pair(
        cluster,
        name,
        &format!("{first} && echo trained"),
        &format!("{second} && echo served && sleep 3"),
    );
    let executor = cluster.executor(name, &format!("wait_time_for_group_job: 0\n{lines}"));
    let ended = finish(start(command(cluster, &dir, &["pair.yaml", "--executor", &executor]))).with_code(0);
    let folder = experiment(&dir, "pair").unwrap();
    let numbers = jobs(&folder);
    assert_eq!(numbers.len(), 2, "{numbers:?}\n{}", ended.stderr);
    let job = numbers[0].split('+').next().unwrap().to_owned();
    assert_eq!(numbers, [format!("{job}+0"), format!("{job}+1")]);
    for (task, words) in [("train", "trained"), ("serve", "served")] {
        let logs = neva_tests::run(command(cluster, &dir, &["experiment", "logs", "pair", task]))
            .with_code(0)
            .stdout;
        assert!(logs.contains(words), "{task}: {logs}");
    }
    job
}

#[test]
fn a_group_is_one_allocation() {
    let cluster = Cluster::shared();
    let job = meeting(&cluster, "allocation", "");
    let shown = cluster.output(&["scontrol", "show", "job", &job]);
    assert!(!shown.contains("HetJobId"), "{shown}");
    assert_eq!(shown.matches("JobId=").count(), 1, "{shown}");
}

#[test]
fn a_group_may_be_a_heterogeneous_job() {
    let cluster = Cluster::shared();
    let job = meeting(&cluster, "heterogeneous", "heterogeneous: true");
    let shown = cluster.output(&["scontrol", "show", "job", &job]);
    assert!(shown.contains("HetJobOffset=1"), "{shown}");
}

#[test]
fn a_failed_task_of_a_group_ends_the_other() {
    let cluster = Cluster::shared();
    let dir = pair(&cluster, "failing", "exit 5", "sleep 300");
    let executor = cluster.executor("failing", "wait_time_for_group_job: 0\nmonitor_group_job_wait_time: 1");
    let _ = finish(start(command(&cluster, &dir, &["pair.yaml", "--executor", &executor]))).with_code(1);
    let status = experiments::status(&cluster, &dir, "pair");
    assert!(status.contains("exit code 5") && status.contains("cancelled"), "{status}");
}

/// Unless the group is monitored, a failed task is shown while the others run, and they run to their end.
#[test]
fn a_failed_task_lets_the_others_go_on() {
    let cluster = Cluster::shared();
    let go = cluster.dir.path().join("go");
    let wait = format!(
        "for i in $(seq 600); do [ -e {0} ] && exit 0; sleep 0.1; done; exit 9",
        go.display()
    );
    let dir = pair(&cluster, "unmonitored", "exit 5", &wait);
    let executor = cluster.executor("unmonitored", "wait_time_for_group_job: 0\nmonitor_group_job: false");
    let status = || experiments::status(&cluster, &dir, "pair");
    let launcher = start(command(&cluster, &dir, &["pair.yaml", "--executor", &executor]));
    wait_for("an experiment", || experiment(&dir, "pair"));
    wait_for("the failed task", || status().contains("it ended with exit code 5").then_some(()));
    fs::write(go, "").unwrap();
    let _ = finish(launcher).with_code(1);
    let status = status();
    assert!(status.contains("succeeded") && status.contains("exit code 5"), "{status}");
}

#[test]
fn a_group_is_cancelled_as_a_whole() {
    for (name, lines) in [("stopped", ""), ("stopped_parts", "heterogeneous: true")] {
        let cluster = Cluster::shared();
        let dir = pair(&cluster, name, "echo up; sleep 300", "echo up; sleep 300");
        let executor = cluster.executor(name, &format!("wait_time_for_group_job: 0\n{lines}"));
        let launcher = start(command(&cluster, &dir, &["pair.yaml", "--executor", &executor]));
        let folder = wait_for("an experiment", || experiment(&dir, "pair"));
        let _ = wait_for("both tasks", || Some(jobs(&folder)).filter(|jobs| jobs.len() == 2));
        let is_up = |task: &str| {
            let log = folder.join("tasks").join(task).join("logs/rank0.log");
            fs::read_to_string(log).unwrap_or_default().contains("up")
        };
        wait_for("both steps", || (is_up("train") && is_up("serve")).then_some(()));
        let _ = neva_tests::run(command(&cluster, &dir, &["experiment", "cancel", "pair", "serve"])).with_code(0);
        let ended = finish(launcher);
        let status = experiments::status(&cluster, &dir, "pair");
        assert_eq!(status.matches("cancelled").count(), 2, "{status}\n{}", ended.stderr);
    }
}
