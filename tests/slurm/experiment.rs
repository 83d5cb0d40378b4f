//! `examples/experiment.yaml` on Slurm: the launcher is killed in the middle, and another one takes over.

use std::{fs, os::unix::fs::symlink, path::PathBuf};

use neva_tests::{finish, root, run, start, wait_for};

use crate::{
    cluster::Cluster,
    experiments::{command, experiment, status},
    training::{losses, steps},
};

const NAME: &str = "learning_rates";
const TRAINED: [&str; 2] = ["train-lr=2e-3", "train-lr=5e-4"];

/// Writes the example with Slurm in place of its own executor, and returns its folder.
fn folder(cluster: &Cluster, name: &str, executor: Option<&str>) -> PathBuf {
    let dir = cluster.dir.path().join(name);
    fs::create_dir(&dir).unwrap();
    symlink(root().join("examples"), dir.join("examples")).unwrap();
    let mut text = fs::read_to_string(root().join("examples/experiment.yaml")).unwrap();
    if let Some(executor) = executor {
        let lines = fs::read_to_string(executor).unwrap();
        let own = text.find("    executor:\n").unwrap();
        let end = text[own..].find("    task:\n").unwrap() + own;
        let lines: String = lines.lines().map(|line| format!("      {line}\n")).collect();
        text.replace_range(own..end, &format!("    executor:\n{lines}"));
    }
    fs::write(dir.join("experiment.yaml"), text).unwrap();
    dir
}

#[test]
fn another_launcher_takes_over() {
    let cluster = Cluster::shared();
    let local = folder(&cluster, "local", None);
    let _ = run(command(&cluster, &local, &["experiment.yaml"])).with_code(0);
    let expected = experiment(&local, NAME).unwrap();

    let executor = cluster.executor("slurm", "retries: 1");
    let dir = folder(&cluster, "slurm", Some(&executor));
    let mut launcher = start(command(&cluster, &dir, &["experiment.yaml", "--executor", &executor]));
    let folder = wait_for("an experiment", || experiment(&dir, NAME));
    // All tasks are submitted at once, also those that wait for others.
    wait_for("four jobs", || {
        let events = fs::read_to_string(folder.join("events.jsonl")).unwrap_or_default();
        (events.matches("\"submitted\"").count() == 4).then_some(())
    });
    launcher.kill().unwrap();
    let _ = launcher.wait().unwrap();
    assert!(
        TRAINED.iter().any(|task| steps(&folder.join("tasks").join(task)) < 20),
        "the kill came too late to tell anything"
    );

    // Slurm goes on without it, to the last task.
    let curves = dir.join("nemo_experiments/learning_rates/curves.svg");
    wait_for("the plot", || curves.exists().then_some(()));
    let status = status(&cluster, &dir, NAME);
    assert!(status.contains("interrupted") && status.contains("succeeded"), "{status}");
    let resumed = start(command(&cluster, &dir, &["experiment", "resume", NAME]));
    let ended = finish(resumed).with_code(0);
    for task in TRAINED {
        let (ours, theirs) = (folder.join("tasks").join(task), expected.join("tasks").join(task));
        assert_eq!(losses(&ours), losses(&theirs), "{}", ended.stderr);
        // The job of the first launcher was found.
        assert!(!ours.join("logs/attempt-1").exists());
    }
    let plot = fs::read_to_string(curves).unwrap();
    assert!(TRAINED.iter().all(|task| plot.contains(task)), "the plot names both");
}
