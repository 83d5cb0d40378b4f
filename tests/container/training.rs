//! Training in containers.

use std::fs;

use neva_tests::{
    finish, run_folder,
    small::{losses, newest, small, steps, words},
    start, wait_for,
};

use crate::machine::{Machine, podman};

const LONG: [&str; 2] = ["num_gpus_per_node=2", "finetune.trainer.max_steps=60"];

/// The container is killed in the middle; the launcher starts another one, which resumes.
#[test]
fn a_container_trains_as_the_machine_does_also_after_it_was_killed() {
    let machine = Machine::new();
    let (here, inside) = (machine.dir.path().join("here"), machine.dir.path().join("inside"));
    let _ = machine.run(&words(&small(&here, "run", &LONG), &[])).with_code(0);

    let executor = machine.executor("retries: 1");
    let launcher = start(machine.neva_run(&words(&small(&inside, "run", &LONG), &["--executor", &executor])));
    let run = wait_for("ten steps", || {
        let run = newest(&inside, "run")?;
        (steps(&run) >= 10).then_some(run)
    });
    let names = machine.containers();
    assert_eq!(names.len(), 1, "{names:?}");
    let _ = podman(&["kill", "--signal", "KILL", &names[0]]).with_code(0);
    let ended = finish(launcher).with_code(0);
    assert!(ended.stdout.contains("done: 60 steps"), "{}", ended.stdout);
    assert!(ended.stderr.contains("was killed"), "{}", ended.stderr);
    assert_eq!(losses(&run), losses(&run_folder(&here, "run")));
    assert!((0..2).all(|rank| run.join(format!("logs/rank{rank}.log")).is_file()));
    assert!(run.join("logs/attempt-1").is_dir(), "the logs of the first attempt are kept");
}

/// A launcher that is killed leaves the job running; a later process finds it, follows it and stops it.
#[test]
fn a_later_launcher_finds_the_job_stops_it_and_resumes_it() {
    let machine = Machine::new();
    let runs = machine.dir.path().join("runs");
    let long = ["finetune.trainer.max_steps=100000", "finetune.log.ckpt.every_n_train_steps=10"];
    let executor = machine.executor("");
    let arguments = small(&runs, "later", &long);
    let mut launcher = start(machine.neva_run(&words(&arguments, &["--executor", &executor, "--detach"])));
    let _ = launcher.wait().expect("the launcher ends");
    let status = || machine.run(&["experiment", "status", "later"]).stdout;
    wait_for("a running task", || status().contains("running").then_some(()));
    let logs = || machine.run(&["experiment", "logs", "later"]).stdout;
    wait_for("ten steps", || logs().contains("step 10").then_some(()));
    let _ = machine.run(&["experiment", "cancel", "later"]).with_code(0);
    wait_for("a cancelled task", || status().contains("cancelled").then_some(()));
    wait_for("the end of the experiment", || status().contains(": failed").then_some(()));
    let _ = machine.run(&["experiment", "resume", "later", "--detach"]).with_code(0);
    wait_for("a resumed run", || logs().contains("resumes from").then_some(()));
    let _ = machine.run(&["experiment", "cancel", "later"]).with_code(0);
    wait_for("a cancelled task", || status().contains("cancelled").then_some(()));
}

/// Ctrl-C reaches the ranks, which save.
#[test]
fn the_first_interrupt_saves_a_checkpoint() {
    let machine = Machine::new();
    let runs = machine.dir.path().join("runs");
    let executor = machine.executor("");
    let arguments = small(&runs, "stop", &["finetune.trainer.max_steps=100000"]);
    let launcher = start(machine.neva_run(&words(&arguments, &["--executor", &executor])));
    let run = wait_for("five steps", || {
        let run = newest(&runs, "stop")?;
        (steps(&run) >= 5).then_some(run)
    });
    let id = launcher.id().to_string();
    let _ = std::process::Command::new("kill").args(["-INT", &id]).status();
    let ended = finish(launcher);
    assert_eq!(ended.code, Some(1), "{}{}", ended.stdout, ended.stderr);
    let report = fs::read_to_string(run.join("report.json")).unwrap_or_else(|error| panic!("{error}: {ended:?}"));
    // Processes of a shell ignore SIGINT.
    assert!(report.contains("SIGTERM"), "{report}");
    let checkpoints = fs::read_dir(run.join("checkpoints")).expect("checkpoints").count();
    assert!(checkpoints > 0);
}
