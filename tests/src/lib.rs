//! Runs the built programs as a user would, each with a deadline.
#![forbid(unsafe_code)]

pub mod document;
pub mod small;

use neva_schemas::{SIGNAL_MASKS_FILE, SignalMasks, StopSignal};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// Deadline of programs and of every wait. Only hung ones take as long, even on a busy machine.
pub const DEADLINE: Duration = Duration::from_secs(300);

/// Name of the data module of Hugging Face's batches, registered in the rank program of the golden traces.
pub const HF_BATCHES: &str = "golden::HfBatches";

/// Returns the repository's root.
pub fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// Returns the path of a built program of the workspace. `cargo test --workspace` builds it; tests of this package alone
/// build it here.
///
/// # Panics
/// If it cannot be built.
pub fn program(name: &str) -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    reset_ignored_signals();
    FOLDER
        .get_or_init(|| {
            // target/<profile>/deps/<this test>
            let test = std::env::current_exe().expect("this test has a path");
            let folder = test.ancestors().nth(2).expect("a test is in target/<profile>/deps").to_owned();
            if ["neva-run", "neva-rank"].iter().any(|name| !folder.join(name).is_file()) {
                let mut cargo = Command::new(env!("CARGO"));
                cargo.args(["build", "--workspace", "--bins"]).current_dir(root());
                if folder.ends_with("release") {
                    cargo.arg("--release");
                }
                assert!(cargo.status().expect("cargo runs").success(), "the programs cannot be built");
            }
            folder
        })
        .join(name)
}

/// Returns the path of a built example program. `cargo test --workspace` builds it; otherwise it is built here.
///
/// # Panics
/// If it cannot be built.
pub fn example(name: &str) -> PathBuf {
    let folder = program("examples");
    let path = folder.join(name);
    if !path.is_file() {
        let mut cargo = Command::new(env!("CARGO"));
        cargo
            .args(["build", "--package", "neva-examples", "--examples"])
            .current_dir(root());
        if folder.parent().is_some_and(|profile| profile.ends_with("release")) {
            cargo.arg("--release");
        }
        assert!(cargo.status().expect("cargo runs").success(), "the examples cannot be built");
    }
    path
}

/// Returns a variable that the Makefile's `target` sets.
///
/// # Panics
/// If it is not set.
#[track_caller]
pub fn variable(name: &str, target: &str) -> String {
    let value = std::env::var_os(name).and_then(|value| value.into_string().ok());
    value.unwrap_or_else(|| panic!("{name} is not set: start this with `make {target}`"))
}

/// Resets ignored signals to their defaults. Tests started in the background of a script inherit ignored signals, which
/// their child processes would also ignore. A handler set here becomes the default action in a child process.
fn reset_ignored_signals() {
    static DONE: OnceLock<()> = OnceLock::new();
    DONE.get_or_init(|| {
        let masks = SignalMasks::parse(&std::fs::read_to_string(SIGNAL_MASKS_FILE).unwrap_or_default());
        for signal in StopSignal::ALL.into_iter().filter(|signal| masks.ignores(signal.number())) {
            signal_hook::flag::register(signal.number(), Arc::default()).expect("a signal handler");
        }
    });
}

/// Returns a `neva-run` command in the repository's root, without variables of an outer run.
pub fn neva_run(arguments: &[&str]) -> Command {
    launcher(&program("neva-run"), arguments)
}

/// Like [`neva_run()`], for another launcher.
pub fn launcher(program: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(root()).stdin(Stdio::null());
    for name in [
        "RANK",
        "WORLD_SIZE",
        "LOCAL_RANK",
        "LOCAL_WORLD_SIZE",
        "MASTER_ADDR",
        "MASTER_PORT",
        "SLURM_STEP_NUM_TASKS",
        "NEVA_RANK",
        "NEVA_LOG",
        "NEVA_RUN_HOME",
        "NEMORUN_HOME",
        "NEVA_EXPERIMENT_DEPTH",
        "NEVA_JOB",
    ] {
        command.env_remove(name);
    }
    command
}

/// Exit code and output of a program.
#[derive(Debug)]
pub struct Ended {
    /// Exit code; `None` for a signal.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Ended {
    /// Checks the exit code and prints all output if it differs.
    ///
    /// # Panics
    /// If it differs.
    #[track_caller]
    #[must_use]
    pub fn with_code(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "--- stdout\n{}\n--- stderr\n{}", self.stdout, self.stderr);
        self
    }
}

/// Starts a command with its output piped.
///
/// # Panics
/// If it cannot be started.
pub fn start(mut command: Command) -> Child {
    command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// Waits for the end of a started program, at most [`DEADLINE`].
///
/// # Panics
/// If [`DEADLINE`] passes; the program is then killed.
#[track_caller]
pub fn finish(child: Child) -> Ended {
    finish_within(child, DEADLINE)
}

/// Like [`finish`], with another deadline.
///
/// # Panics
/// If it passes; the program is then killed, and its processes are printed.
#[track_caller]
pub fn finish_within(child: Child, deadline: Duration) -> Ended {
    let id = child.id();
    let (sender, receiver) = channel();
    std::thread::spawn(move || sender.send(child.wait_with_output()));
    match receiver.recv_timeout(deadline) {
        Ok(output) => {
            let Output { status, stdout, stderr } = output.expect("the output can be read");
            let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
            Ended {
                code: status.code(),
                stdout: text(stdout),
                stderr: text(stderr),
            }
        }
        Err(_) => {
            let line = std::fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            let _ = Command::new("kill").args(["-KILL", &id.to_string()]).status();
            panic!("process {id} did not end within {deadline:?}: {line}");
        }
    }
}

/// Runs a command to its end.
#[track_caller]
pub fn run(command: Command) -> Ended {
    finish(start(command))
}

/// Returns the folder of the only run called `name` under `dir`.
///
/// # Panics
/// If there is none.
pub fn run_folder(dir: &Path, name: &str) -> PathBuf {
    let runs = std::fs::read_dir(dir.join(name)).unwrap_or_else(|error| panic!("no run {name} under {}: {error}", dir.display()));
    let mut runs: Vec<_> = runs.map(|run| run.expect("a folder can be listed").path()).collect();
    runs.sort();
    runs.pop().unwrap_or_else(|| panic!("no run {name} under {}", dir.display()))
}

/// Returns a free port below 32768, where the system's ephemeral ports start.
///
/// # Panics
/// If all are taken.
pub fn free_port() -> u16 {
    static ASKED: AtomicU16 = AtomicU16::new(0);
    let first = 10_000 + (std::process::id() % 2000) as u16 * 10;
    let mut ports = std::iter::repeat_with(|| first + ASKED.fetch_add(1, Ordering::Relaxed));
    ports
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("a port is free")
}

/// Returns the values of one key in a run's `metrics.jsonl`.
///
/// # Panics
/// If there is no such file or key.
pub fn metrics(run: &Path, key: &str) -> Vec<f64> {
    let text = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap_or_else(|error| panic!("{}: {error}", run.display()));
    let value = |line: &str| {
        let line: serde_json::Value = serde_json::from_str(line).expect("a metrics line is JSON");
        line[key].as_f64().unwrap_or_else(|| panic!("no number `{key}` in {line}"))
    };
    text.lines().map(value).collect()
}

/// Returns the first value that `look` finds, within [`DEADLINE`].
///
/// # Panics
/// If `what` does not occur.
#[track_caller]
pub fn wait_for<T>(what: &str, look: impl Fn() -> Option<T>) -> T {
    let started = Instant::now();
    // Nothing is sent; the receiver only waits.
    let (_sender, receiver) = channel::<()>();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(started.elapsed() < DEADLINE, "{what}: not there after {DEADLINE:?}");
        let _ = receiver.recv_timeout(Duration::from_millis(5));
    }
}
