//! Retried runs and stopped runs.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::Child,
    sync::mpsc,
};

use neva_schemas::exit_class;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::{
    DEADLINE,
    process::{Program, end, run_folder, wait_for},
};

/// Returns a program whose ranks count their attempts.
fn program(behaviour: &str, arguments: &[&str]) -> Program {
    Program::new(behaviour, &[&["neva_tiny"], arguments].concat()).env(&[("ATTEMPTS", "1")])
}

fn attempts(dir: &Path) -> String {
    fs::read_to_string(run_folder(dir).join("attempts")).unwrap().trim().to_owned()
}

#[test]
fn a_run_that_fails_twice_succeeds_at_the_third_attempt() {
    let (code, stdout, stderr, dir) = program("fails 2 1", &["--retries", "2"]).run();
    let folder = run_folder(dir.path());
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(
        stderr,
        format!(
            "attempt 1 of 3 failed: rank 0 failed in step 3: try 1
attempt 2 starts in 1 s and starts over: there is no checkpoint yet
attempt 2 of 3 failed: rank 0 failed in step 3: try 2
attempt 3 starts in 2 s and resumes from the last checkpoint, {}
",
            folder.join("checkpoints/10").display()
        )
    );
    assert!(stdout.contains("done: 5 steps"), "{stdout}");
    for (attempt, log) in (1..).zip(["attempt-1/rank0.log", "attempt-2/rank0.log", "rank0.log"]) {
        let line = format!("this is try {attempt}\n");
        let log = fs::read_to_string(folder.join("logs").join(log)).unwrap();
        assert!(log.ends_with(&line), "{log}");
        assert_eq!(stdout.matches(&log).count(), 1, "output is forwarded once: {stdout}");
    }
    assert_eq!(fs::read_to_string(folder.join("failures.jsonl")).unwrap().lines().count(), 2);
}

#[test]
fn the_failure_of_the_last_attempt_is_reported() {
    for class in [exit_class::JOB, exit_class::CLUSTER] {
        let (code, _, stderr, dir) = program(&format!("fails 9 {class}"), &["--retries", "1"]).run();
        assert_eq!((code, attempts(dir.path()).as_str()), (class.into(), "2"), "{stderr}");
        let error = stderr.rsplit("  × ").next().unwrap();
        assert!(error.starts_with("rank 0 failed in step 3: try 2\n"), "{stderr}");
    }
}

#[test]
fn permanent_failures_are_not_retried() {
    for (behaviour, retries, class) in [
        ("fails 9 2", "2", exit_class::INPUT),
        ("fails 9 4", "2", exit_class::BUG),
        ("fails 9 1", "0", exit_class::JOB),
        ("stopped", "2", exit_class::JOB),
        ("no-report", "2", exit_class::BUG),
    ] {
        let (code, _, stderr, dir) = program(behaviour, &["--retries", retries]).run();
        assert_eq!((code, attempts(dir.path()).as_str()), (class.into(), "1"), "{behaviour}: {stderr}");
        assert!(!stderr.contains("attempt"), "{stderr}");
    }
}

#[test]
fn the_report_of_one_attempt_does_not_count_for_the_next() {
    let (code, _, stderr, dir) = program("stale-report", &["--retries", "1"]).run();
    assert_eq!((code, attempts(dir.path()).as_str()), (exit_class::BUG.into(), "2"), "{stderr}");
    assert!(stderr.contains("wrote no report"), "{stderr}");
}

#[test]
fn a_signal_ends_a_pause_at_once() {
    let mut program = program("fails 9 1", &["--retries", "9"]);
    let mut child = program.spawn();
    let lines = lines(&mut child);
    let mut text = String::new();
    while !text.contains("attempt 4 starts in 4 s") {
        text += &lines.recv_timeout(DEADLINE).expect("a line in time");
    }
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let (code, _, _) = end(child);
    text.extend(lines);
    assert_eq!(
        (code, attempts(program.dir.path()).as_str()),
        (exit_class::JOB.into(), "3"),
        "{text}"
    );
    assert!(
        text.contains("the run was cancelled") && text.contains("resume_if_exists=true"),
        "{text}"
    );
}

/// Returns the lines of standard error as they arrive.
fn lines(child: &mut Child) -> mpsc::Receiver<String> {
    let stderr = child.stderr.take().unwrap();
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let lines = BufReader::new(stderr).lines();
        lines.map_while(Result::ok).try_for_each(|line| sender.send(line + "\n"))
    });
    receiver
}

/// Returns the launcher's JSON error, with the run's folder as `RUN`.
fn json_error(stdout: &str, dir: &Path) -> Value {
    let error: Value = serde_json::from_str(&stdout.replace(&run_folder(dir).display().to_string(), "RUN")).unwrap();
    error["error"].clone()
}

const GO_ON: &str = "to resume from it, start the run again with `--set finetune.resume.resume_if_exists=true`";

#[test]
fn stopped_ranks_did_not_fail() {
    let (code, stdout, _, dir) = program("stopped", &["--output", "json"]).run();
    let error = json_error(&stdout, dir.path());
    assert_eq!(code, i32::from(exit_class::JOB));
    assert_eq!(
        error["message"],
        "stopped by SIGTERM after 5 steps; the checkpoint is RUN/checkpoints/last"
    );
    assert_eq!((&error["help"], &error["failure"]), (&GO_ON.into(), &Value::Null));
}

#[test]
fn a_cancelled_run_names_its_checkpoint_and_is_not_retried() {
    for signal in [Signal::TERM, Signal::USR1] {
        let mut program = program("stops", &["--retries", "2", "--output", "json"]);
        let child = program.spawn();
        wait_for("a rank", || {
            let dirs = fs::read_dir(program.dir.path().join("nemo_experiments/default")).ok()?;
            let text = fs::read_to_string(dirs.last()?.ok()?.path().join("pids")).ok()?;
            text.ends_with('\n').then_some(())
        });
        kill_process(Pid::from_child(&child), signal).unwrap();
        let (code, stdout, stderr) = end(child);
        assert_eq!(
            (code, attempts(program.dir.path()).as_str()),
            (exit_class::JOB.into(), "1"),
            "{stderr}"
        );
        let error = json_error(&stdout, program.dir.path());
        assert_eq!(
            error["message"],
            "the run was cancelled; its folder is RUN; the checkpoint is RUN/checkpoints/last"
        );
        assert_eq!(error["help"], GO_ON);
    }
}
