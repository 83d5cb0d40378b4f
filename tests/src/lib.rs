//! Runs the built programs, as a user would, with a deadline on each.
#![forbid(unsafe_code)]

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

/// How long a program may take, and anything that is awaited. What is not stuck is far faster, on a busy machine too.
pub const DEADLINE: Duration = Duration::from_secs(300);

/// The repository's root.
pub fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// A built program of the workspace. `cargo test --workspace` has built it; where only this package's tests
/// are run, it is built here.
///
/// # Panics
/// When it cannot be built.
pub fn program(name: &str) -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER
        .get_or_init(|| {
            // target/<profile>/deps/<this test>
            let test = std::env::current_exe().expect("this test has a path");
            let folder = test.ancestors().nth(2).expect("a test lies in target/<profile>/deps").to_owned();
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

/// A built example program. `cargo test --workspace` has built it; else it is built here.
///
/// # Panics
/// When it cannot be built.
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

/// `neva-run` in the repository's root, with an environment that no outer run leaks into.
pub fn neva_run(arguments: &[&str]) -> Command {
    launcher(&program("neva-run"), arguments)
}

/// As [`neva_run`], of another launcher.
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

/// How a program ended, as text.
#[derive(Debug)]
pub struct Ended {
    /// Exit code; `None` for a signal.
    pub code: Option<i32>,
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
}

impl Ended {
    /// Checks the exit code, and shows everything if it is another one.
    ///
    /// # Panics
    /// When it is another one.
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
/// When it cannot be started.
pub fn start(mut command: Command) -> Child {
    command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// Waits for the end of a started program, but not for ever.
///
/// # Panics
/// When [`DEADLINE`] passes; the program is killed then.
#[track_caller]
pub fn finish(child: Child) -> Ended {
    finish_within(child, DEADLINE)
}

/// [`finish`], with a deadline of its own.
///
/// # Panics
/// When it passes; the program is killed then, and what it runs is told.
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

/// The folder of the only run called `name` under `dir`.
///
/// # Panics
/// When there is none.
pub fn run_folder(dir: &Path, name: &str) -> PathBuf {
    let runs = std::fs::read_dir(dir.join(name)).unwrap_or_else(|error| panic!("no run {name} under {}: {error}", dir.display()));
    let mut runs: Vec<_> = runs.map(|run| run.expect("a folder can be listed").path()).collect();
    runs.sort();
    runs.pop().unwrap_or_else(|| panic!("no run {name} under {}", dir.display()))
}

/// A port that nobody gets who asks for any: those begin at 32768.
///
/// # Panics
/// When all are taken.
pub fn free_port() -> u16 {
    static ASKED: AtomicU16 = AtomicU16::new(0);
    let first = 10_000 + (std::process::id() % 2000) as u16 * 10;
    let mut ports = std::iter::repeat_with(|| first + ASKED.fetch_add(1, Ordering::Relaxed));
    ports
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("a port is free")
}

/// The values of one key in a run's `metrics.jsonl`.
///
/// # Panics
/// When there is no such file or key.
pub fn metrics(run: &Path, key: &str) -> Vec<f64> {
    let text = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap_or_else(|error| panic!("{}: {error}", run.display()));
    let value = |line: &str| {
        let line: serde_json::Value = serde_json::from_str(line).expect("a metrics line is JSON");
        line[key].as_f64().unwrap_or_else(|| panic!("no number `{key}` in {line}"))
    };
    text.lines().map(value).collect()
}

/// The first value that `look` finds, within [`DEADLINE`].
///
/// # Panics
/// When `what` does not come.
#[track_caller]
pub fn wait_for<T>(what: &str, look: impl Fn() -> Option<T>) -> T {
    let started = Instant::now();
    // Nobody sends: the receiver only waits.
    let (_sender, receiver) = channel::<()>();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(started.elapsed() < DEADLINE, "{what}: not there after {DEADLINE:?}");
        let _ = receiver.recv_timeout(Duration::from_millis(5));
    }
}
