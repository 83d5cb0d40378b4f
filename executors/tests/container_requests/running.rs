//! Scripts of containers, run by this machine's shell.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use neva_executors::Executor as _;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::cases::{executor, plan, script};

const DEADLINE: Duration = Duration::from_secs(60);

/// A job whose script runs without a container.
struct Job {
    dir: TempDir,
    shell: Child,
}

impl Job {
    /// Starts a job of `ranks` ranks that run the shell text `text`.
    fn start(settings: Value, ranks: u32, text: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("rank");
        fs::write(&program, format!("#!/bin/sh\n{text}\n")).unwrap();
        let mut settings = settings;
        settings["rank_program"] = json!("/bin/sh");
        let submission = executor(&settings).render(&plan("neva_tiny", dir.path(), ranks)).unwrap();
        // The arguments of a rank are `train --plan PLAN`: the text takes the place of `train`.
        let text = submission.files[Path::new("container.sh")].replace(" train ", &format!(" {} ", program.display()));
        Self::run(dir, &text)
    }

    fn run(dir: TempDir, text: &str) -> Self {
        fs::create_dir(dir.path().join("logs")).unwrap();
        let file = dir.path().join("container.sh");
        fs::write(&file, text).unwrap();
        let shell = Command::new("sh").arg(&file).stdin(Stdio::null()).spawn().unwrap();
        Self { dir, shell }
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(self.dir.path().join(file)).unwrap_or_default()
    }

    fn wait_for(&self, file: &str, text: &str) {
        let started = Instant::now();
        while !self.read(file).contains(text) {
            assert!(started.elapsed() < DEADLINE, "{file}: {:?}", self.read(file));
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill").args(["-s", name, &self.shell.id().to_string()]).status();
        assert!(status.unwrap().success());
    }

    /// Waits for the end of the script, and returns its exit code and its record.
    fn end(&mut self) -> (Option<i32>, String) {
        let started = Instant::now();
        loop {
            if let Some(status) = self.shell.try_wait().unwrap() {
                return (status.code(), self.read("container.exits"));
            }
            if started.elapsed() > DEADLINE {
                let _ = self.shell.kill();
                panic!("the script hung: {}", self.read("container.exits"));
            }
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }
}

#[test]
fn all_ranks_succeed() {
    let mut job = Job::start(json!({}), 2, "echo \"$RANK of $WORLD_SIZE, $LOCAL_RANK, $MASTER_ADDR, $GREETING\"");
    let (code, record) = job.end();
    let mut lines: Vec<_> = record.lines().collect();
    lines.sort_unstable();
    assert_eq!((code, lines.as_slice()), (Some(0), ["0 0 1", "1 0 1", "end"].as_slice()));
    assert_eq!(job.read("logs/rank1.log"), "1 of 2, 1, 127.0.0.1, two 'words' of ~\n");
}

#[test]
fn the_first_failure_ends_the_others() {
    let text = "[ $RANK != 1 ] || exit 2\n[ $RANK = 0 ] && trap 'echo saved; exit 0' TERM\n[ $RANK = 2 ] && trap '' TERM\n\
                while :; do sleep 0.02; done";
    let mut job = Job::start(json!({ "settle_s": 0, "grace_s": 1 }), 3, text);
    assert_eq!(job.end(), (Some(2), "1 2 1\n0 0 0\n2 137 0\nend\n".to_owned()));
    assert_eq!(job.read("logs/rank0.log"), "saved\n");
}

#[test]
fn a_signal_reaches_the_ranks_and_a_second_kills() {
    let text = "[ $RANK = 0 ] && trap 'echo saved; exit 0' INT TERM\n[ $RANK = 1 ] && trap '' TERM\necho ready\n\
                while :; do sleep 0.02; done";
    let mut job = Job::start(json!({}), 2, text);
    for rank in 0..2 {
        job.wait_for(&format!("logs/rank{rank}.log"), "ready");
    }
    job.signal("TERM");
    job.wait_for("container.exits", "0 0 0");
    job.signal("TERM");
    assert_eq!(job.end(), (Some(137), "stop TERM\n0 0 0\nstop TERM\n1 137 0\nend\n".to_owned()));
}

#[test]
fn secrets_come_through_the_pipe() {
    let dir = tempfile::tempdir().unwrap();
    let settings = json!({ "env_from": ["SECRET"], "rank_program": "/usr/bin/env" });
    let submission = executor(&settings).render(&plan("neva_tiny", dir.path(), 1)).unwrap();
    let text = submission.files[Path::new("container.sh")].replace(" train ", " printenv SECRET #");
    let pipe = dir.path().join("container.env");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let mut job = Job::run(dir, &text);
    fs::write(&pipe, "export SECRET='it is'\\''s \"odd\" $HOME'\ncomplete=yes\n").unwrap();
    assert_eq!(job.end().0, Some(0), "{}", job.read("logs/container.log"));
    assert_eq!(job.read("logs/rank0.log"), "it is's \"odd\" $HOME\n");
    assert!(!pipe.exists(), "the pipe is gone");
}

/// The launcher was killed while it sent the values.
#[test]
fn a_part_of_the_secrets_starts_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let settings = json!({ "env_from": ["SECRET"] });
    let submission = executor(&settings).render(&plan("neva_tiny", dir.path(), 1)).unwrap();
    let pipe = dir.path().join("container.env");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let mut job = Job::run(dir, &submission.files[Path::new("container.sh")]);
    fs::write(&pipe, "export SECRET='a'\n").unwrap();
    assert_eq!(job.end(), (Some(3), String::new()));
    assert!(job.read("logs/container.log").contains("was killed"));
}

#[test]
fn a_folder_that_is_not_mounted_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let mut plan = script(dir.path(), "true");
    plan.working_directory = "/nowhere/at/all".into();
    let submission = executor(&json!({})).render_script(&plan).unwrap();
    let mut job = Job::run(dir, &submission.files[Path::new("container.sh")]);
    assert_eq!(job.end(), (Some(126), "0 126 1\nend\n".to_owned()));
    let log = job.read("logs/rank0.log");
    assert!(log.contains("the folder /nowhere/at/all is not in the container"), "{log}");
}
