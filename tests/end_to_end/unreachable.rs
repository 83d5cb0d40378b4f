//! A cluster that cannot be reached: a request to stop ends the wait for it.

use neva_tests::{DEADLINE, neva_run, wait_for};
use rustix::process::{Pid, Signal, kill_process};
use std::cell::RefCell;
use std::fs::{self, File};
use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};

#[test]
#[expect(clippy::disallowed_methods, reason = "signals shortly after each other are one request")]
fn a_second_request_gives_up_a_submission() {
    let dir = tempfile::tempdir().unwrap();
    let executor = dir.path().join("far.yaml");
    // Nobody listens at the port.
    let text = "_target_: run.SlurmExecutor\ngpus_per_node: 0\ntunnel:\n  _target_: run.SSHTunnel\n  host: 127.0.0.1\n  port: 1\n  \
                program: ssh2\n  config_file: /dev/null\n  job_dir: /nowhere\n";
    fs::write(&executor, text).unwrap();
    let log = dir.path().join("log");
    let mut command = neva_run(&["recipes/neva_tiny.yaml", "--executor", executor.to_str().unwrap()]);
    command.stdout(Stdio::null()).stderr(File::create(&log).unwrap());
    let child = RefCell::new(command.spawn().unwrap());
    let logged = || fs::read_to_string(&log).unwrap();
    wait_for("the wait", || logged().contains("the submission waits for it").then_some(()));
    let pid = Pid::from_child(&child.borrow());
    kill_process(pid, Signal::INT).unwrap();
    wait_for("the notice", || logged().contains("a second request gives it up").then_some(()));
    sleep(Duration::from_millis(600));
    kill_process(pid, Signal::INT).unwrap();
    let asked = Instant::now();
    let ended = wait_for("the end", || child.borrow_mut().try_wait().unwrap());
    assert_eq!(ended.code(), Some(1), "{}", logged());
    assert!(
        asked.elapsed() < DEADLINE && logged().contains("cancelled before it was submitted"),
        "{}",
        logged()
    );
}
