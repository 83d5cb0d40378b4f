//! A sweep is one array: one call of sbatch, a cap, and a status for each element.

use std::{fs, path::Path, thread::sleep, time::Duration};

use neva_tests::{finish, start, wait_for};

use crate::{
    cluster::Cluster,
    experiments::{self, command, experiment, jobs},
};

/// A script that runs until a file is there.
fn waiting(dir: &Path, file: &str, end: &str) -> String {
    let path = dir.join(file);
    format!(
        "for i in $(seq 1200); do [ -e {0} ] && break; sleep 0.1; done; [ -e {0} ] && {end}",
        path.display()
    )
}

/// Returns the tasks of an array that run.
fn running_tasks(cluster: &Cluster, array: &str) -> Vec<String> {
    let query = [
        "squeue",
        "--noheader",
        "--array",
        "--states=running",
        "--format=%i",
        "--jobs",
        array,
    ];
    cluster.output(&query).lines().map(str::to_owned).collect()
}

#[test]
fn four_tasks_are_one_array_with_a_cap() {
    let cluster = Cluster::shared();
    let dir = cluster.dir.path().to_owned();
    let mut text = "name: four\nmax_parallel: 2\ntasks:\n".to_owned();
    for (task, end) in [
        ("one", "echo one done"),
        ("two", "exit 7"),
        ("three", "echo three done"),
        ("four", "echo four done"),
    ] {
        let script = waiting(&dir, task, end);
        text += &format!("  {task}:\n    task: {{_target_: run.Script, inline: \"{script}\"}}\n");
    }
    fs::write(dir.join("four.yaml"), text).unwrap();
    let executor = cluster.executor("array", "");
    let mut launcher = start(command(&cluster, &dir, &["four.yaml", "--executor", &executor]));
    let folder = wait_for("an experiment", || experiment(&dir, "four"));
    let numbers = wait_for("four elements", || Some(jobs(&folder)).filter(|jobs| jobs.len() == 4));
    // One call of sbatch: all have the number of one array, with its cap.
    let array = numbers[0].split('_').next().unwrap().to_owned();
    let mut expected: Vec<_> = (0..4).map(|task| format!("{array}_{task}")).collect();
    let mut sorted = numbers.clone();
    sorted.sort();
    expected.sort();
    assert_eq!(sorted, expected);
    let shown = cluster.output(&["scontrol", "show", "job", &array]);
    assert!(shown.contains("ArrayTaskThrottle=2"), "{shown}");
    let running = || running_tasks(&cluster, &array).len();
    wait_for("two that run", || (running() == 2).then_some(()));
    sleep(Duration::from_secs(3));
    assert_eq!(running(), 2, "the cap is two");

    // The launcher is killed; Slurm goes on with the next ones.
    launcher.kill().unwrap();
    let _ = launcher.wait().unwrap();
    for task in ["one", "two"] {
        fs::write(dir.join(task), "").unwrap();
    }
    wait_for("the next two", || {
        let ids = running_tasks(&cluster, &array);
        (ids.len() == 2 && ids.iter().all(|id| id.ends_with("_2") || id.ends_with("_3"))).then_some(())
    });
    let status = experiments::status(&cluster, &dir, "four");
    assert!(status.contains("exit code 7"), "{status}");

    // Another launcher finds the elements that run, and starts the failed one alone.
    fs::write(dir.join("three"), "").unwrap();
    let resumed = start(command(&cluster, &dir, &["experiment", "resume", "four"]));
    let again = wait_for("the failed one again", || {
        Some(jobs(&folder)).filter(|jobs| jobs.len() == 5).map(|jobs| jobs[4].clone())
    });
    assert!(!again.contains('_'), "one task needs no array: {again}");
    fs::write(dir.join("four"), "").unwrap();
    let ended = finish(resumed).with_code(1);
    let status = experiments::status(&cluster, &dir, "four");
    assert_eq!(status.matches("succeeded").count(), 3, "{status}\n{}", ended.stderr);
    let logs = neva_tests::run(command(&cluster, &dir, &["experiment", "logs", "four", "three"]))
        .with_code(0)
        .stdout;
    assert!(logs.contains("three done"), "{logs}");
}

#[test]
fn a_task_of_an_array_is_cancelled_alone() {
    let cluster = Cluster::shared();
    let dir = cluster.dir.path().to_owned();
    let mut text = "name: cancelled\ntasks:\n".to_owned();
    for task in ["one", "two"] {
        let script = waiting(&dir, "go", "true");
        text += &format!("  {task}:\n    task: {{_target_: run.Script, inline: \"{script}\"}}\n");
    }
    fs::write(dir.join("cancelled.yaml"), text).unwrap();
    let executor = cluster.executor("array", "");
    let launcher = start(command(&cluster, &dir, &["cancelled.yaml", "--executor", &executor]));
    let folder = wait_for("an experiment", || experiment(&dir, "cancelled"));
    let numbers = wait_for("two elements", || Some(jobs(&folder)).filter(|jobs| jobs.len() == 2));
    let array = numbers[0].split('_').next().unwrap();
    wait_for("both to run", || (running_tasks(&cluster, array).len() == 2).then_some(()));
    let _ = neva_tests::run(command(&cluster, &dir, &["experiment", "cancel", "cancelled", "two"])).with_code(0);
    wait_for("the end of one", || {
        let events = fs::read_to_string(folder.join("events.jsonl")).unwrap();
        events.contains("cancelled\"").then_some(())
    });
    fs::write(dir.join("go"), "").unwrap();
    let ended = finish(launcher);
    let status = experiments::status(&cluster, &dir, "cancelled");
    assert!(
        status.contains("succeeded") && status.contains("cancelled"),
        "{status}\n{}",
        ended.stderr
    );
}

/// A launcher that is killed between sbatch and its record: the next one finds the jobs in their folders.
#[test]
fn jobs_that_were_not_recorded_are_found() {
    let cluster = Cluster::shared();
    let dir = cluster.dir.path().to_owned();
    let mut text = "name: unrecorded\ntasks:\n".to_owned();
    for task in ["one", "two"] {
        let script = waiting(&dir, "go", "true");
        text += &format!("  {task}:\n    task: {{_target_: run.Script, inline: \"{script}\"}}\n");
    }
    fs::write(dir.join("unrecorded.yaml"), text).unwrap();
    let executor = cluster.executor("array", "");
    let mut launcher = start(command(&cluster, &dir, &["unrecorded.yaml", "--executor", &executor]));
    let folder = wait_for("an experiment", || experiment(&dir, "unrecorded"));
    let numbers = wait_for("two elements", || Some(jobs(&folder)).filter(|jobs| jobs.len() == 2));
    launcher.kill().unwrap();
    let _ = launcher.wait().unwrap();
    let events = fs::read_to_string(folder.join("events.jsonl")).unwrap();
    let kept: String = events
        .lines()
        .filter(|line| !line.contains("slurm:///"))
        .map(|line| format!("{line}\n"))
        .collect();
    fs::write(folder.join("events.jsonl"), kept).unwrap();

    let resumed = start(command(&cluster, &dir, &["experiment", "resume", "unrecorded"]));
    let found = wait_for("the jobs", || Some(jobs(&folder)).filter(|jobs| jobs.len() == 2));
    assert_eq!(found, numbers);
    fs::write(dir.join("go"), "").unwrap();
    let _ = finish(resumed).with_code(0);
    let rows = cluster.output(&["squeue", "--noheader", "--states=all", "--format=%F", "--name=unrecorded"]);
    let array = numbers[0].split('_').next().unwrap();
    assert!(!rows.is_empty() && rows.lines().all(|row| row.trim() == array), "one array: {rows}");
}

/// The last task of an array has the number of the whole array; its requeue must not start the others again.
#[test]
fn a_task_of_an_array_is_requeued_alone() {
    let cluster = Cluster::shared();
    let dir = cluster.dir.path().to_owned();
    let text = "name: requeued\ntasks:\n  one:\n    task: {_target_: run.Script, inline: \"echo once\"}\n  \
                two:\n    task: {_target_: run.Script, inline: \"test -n \\\"$SLURM_RESTART_COUNT\\\" || exit 3\"}\n";
    fs::write(dir.join("requeued.yaml"), text).unwrap();
    let executor = cluster.executor("array", "retries: 1");
    let ended = finish(start(command(&cluster, &dir, &["requeued.yaml", "--executor", &executor]))).with_code(0);
    let folder = experiment(&dir, "requeued").unwrap();
    let numbers = jobs(&folder);
    let restarts = |id: &str| {
        let shown = cluster.output(&["scontrol", "--oneliner", "show", "job", id]);
        shown.contains("Restarts=1")
    };
    assert_eq!(numbers.len(), 2, "{}", ended.stderr);
    for id in &numbers {
        assert_eq!(restarts(id), id.ends_with("_1"), "{id}");
    }
    let own = fs::read_to_string(folder.join("tasks/two/logs/slurm.log")).unwrap();
    assert!(own.contains("requeue 1 of at most 1") && own.contains("start 2"), "{own}");
}
