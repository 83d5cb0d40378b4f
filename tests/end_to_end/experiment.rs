//! `examples/experiment.yaml`: prepare, train with two learning rates, plot; undisturbed, and with a killed launcher.

use neva_tests::{finish, neva_run, root, run, start, wait_for};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

const NAME: &str = "learning_rates";
const TRAINED: [&str; 2] = ["train-lr=2e-3", "train-lr=5e-4"];
const STEPS: usize = 20;

/// Creates a working directory for the example, with its own store.
fn folder() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    symlink(root().join("examples"), dir.path().join("examples")).unwrap();
    dir
}

fn command(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = neva_run(arguments);
    command.current_dir(dir).env("NEVA_RUN_HOME", dir.join("home"));
    // Spinning threads make a busy machine eight times slower.
    command.env("OMP_WAIT_POLICY", "passive");
    command
}

/// Returns the folder of the only experiment, once its record is written: commands find it from then on.
fn experiment(dir: &Path) -> Option<PathBuf> {
    let folder = fs::read_dir(dir.join("home/experiments").join(NAME)).ok()?.next()?.unwrap().path();
    folder.join("experiment.json").exists().then_some(folder)
}

/// Returns the bits of each step's loss of both fine-tunes. Repeated steps must have equal losses.
fn losses(experiment: &Path) -> BTreeMap<(String, u64), u64> {
    let mut losses = BTreeMap::new();
    for task in TRAINED {
        let text = fs::read_to_string(experiment.join("tasks").join(task).join("metrics.jsonl")).unwrap();
        for line in text.lines() {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            let Some(loss) = line["reduced_train_loss"].as_f64() else {
                continue;
            };
            let before = losses.insert((task.to_owned(), line["step"].as_u64().unwrap()), loss.to_bits());
            assert!(before.is_none_or(|bits| bits == loss.to_bits()), "{task} {line}");
        }
    }
    losses
}

fn steps_done(experiment: &Path, task: &str) -> usize {
    let text = fs::read_to_string(experiment.join("tasks").join(task).join("metrics.jsonl"));
    text.map_or(0, |text| text.lines().count())
}

/// Returns the number of submitted jobs of a task.
fn submitted(experiment: &Path, task: &str) -> usize {
    let text = fs::read_to_string(experiment.join("events.jsonl")).unwrap();
    let mark = format!("\"task\":\"{task}\",\"change\":{{\"submitted\"");
    text.lines().filter(|line| line.contains(&mark)).count()
}

#[test]
fn the_example_runs_and_resumes_after_its_launcher_was_killed() {
    let undisturbed = folder();
    let ended = run(command(undisturbed.path(), &["examples/experiment.yaml"])).with_code(0);
    let done = experiment(undisturbed.path()).unwrap();
    let expected = losses(&done);
    assert_eq!(expected.len(), 2 * STEPS, "{}", ended.stderr);
    let plot = "nemo_experiments/learning_rates/curves.svg";
    let drawn = fs::read_to_string(undisturbed.path().join(plot)).unwrap();
    assert!(TRAINED.iter().all(|task| drawn.contains(task)), "the plot names both");
    let log = fs::read_to_string(done.join("tasks/prepare/logs/rank0.log")).unwrap();
    assert!(log.starts_with("8 photographs"), "{log}");

    let dir = folder();
    let mut launcher = start(command(dir.path(), &["examples/experiment.yaml"]));
    let folder = wait_for("an experiment", || experiment(dir.path()));
    wait_for("steps of both", || {
        TRAINED.iter().all(|task| steps_done(&folder, task) > 6).then_some(())
    });
    launcher.kill().unwrap();
    assert!(!launcher.wait().unwrap().success());
    assert!(
        TRAINED.iter().any(|task| steps_done(&folder, task) < STEPS),
        "the kill came too late to tell anything"
    );
    let status = run(command(dir.path(), &["experiment", "status", NAME])).with_code(0);
    assert!(status.stdout.contains("interrupted"), "{}", status.stdout);

    let resumed = start(command(dir.path(), &["experiment", "resume", NAME]));
    let ended = finish(resumed).with_code(0);
    assert_eq!(losses(&folder), expected, "{}", ended.stderr);
    assert_eq!(submitted(&folder, "prepare"), 1, "a succeeded task is not run again");
    assert!(TRAINED.iter().any(|task| submitted(&folder, task) == 2));
    assert_eq!(
        fs::read_to_string(dir.path().join(plot)).unwrap().matches("<path").count(),
        drawn.matches("<path").count()
    );
}
