//! Detached experiments, which survive their terminal: the launcher is this program in a separate process and session.
//! All of its state is in files, so that every subcommand works on it as on any other experiment.

use std::{
    fs::OpenOptions,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use neva_schemas::env;

use super::{
    error::ExperimentError, folder::ExperimentFolder, launcher::Launcher, record::file_error, report::ExperimentReport, store::Store,
};
use crate::{environment, error::RunError};

/// Hidden subcommand of a detached launcher.
pub(crate) const SUPERVISE: [&str; 2] = ["experiment", "supervise"];

/// Time within which a launcher must have started.
const DEADLINE: Duration = Duration::from_secs(30);

/// Starts a launcher for the experiment in `folder`, whose lock is free, and waits until it has the lock.
pub(crate) fn start(folder: &ExperimentFolder) -> Result<(), RunError> {
    let failed = |source| RunError::System {
        action: "start the launcher",
        source,
    };
    let log = folder.launcher_log();
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&log)
        .map_err(file_error("write", &log))?;
    let program = environment::program().ok_or_else(|| failed(std::io::ErrorKind::NotFound.into()))?;
    let mut child = Command::new(program)
        .args(SUPERVISE)
        .arg(&folder.dir)
        // A task may start an experiment that must outlive it.
        .env_remove(env::NEVA_JOB)
        .stdin(Stdio::null())
        .stdout(file.try_clone().map_err(failed)?)
        .stderr(file)
        .spawn()
        .map_err(failed)?;
    let deadline = Instant::now() + DEADLINE;
    loop {
        if folder.timeline()?.launcher == Some(child.id()) {
            return Ok(());
        }
        if let Some(status) = child.try_wait().map_err(failed)? {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            let last = text
                .lines()
                .rev()
                .find(|line| !line.trim().is_empty())
                .unwrap_or("no output")
                .to_owned();
            return Err(failed(std::io::Error::other(format!("it ended with {status}: {}", last.trim()))));
        }
        if Instant::now() > deadline {
            // Otherwise it might start after its failure was reported.
            let _ = child.kill();
            return Err(failed(std::io::ErrorKind::TimedOut.into()));
        }
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

/// Runs the launcher of the experiment in `dir`, in its own session, so that no terminal can stop it.
pub(crate) fn supervise(dir: &Path) -> Result<ExperimentReport, RunError> {
    // The only possible error is that this process leads a session already.
    let _ = rustix::process::setsid();
    let unknown = || ExperimentError::Unknown {
        requested: dir.display().to_string(),
        home: dir.to_owned(),
        nearest: None,
    };
    let id = dir.file_name().and_then(|id| id.to_str()).ok_or_else(unknown)?;
    // HOME/experiments/NAME/ID.
    let home = dir.ancestors().nth(3).ok_or_else(unknown)?;
    let folder = ExperimentFolder {
        dir: dir.to_owned(),
        id: id.to_owned(),
    };
    let lock = folder.lock()?;
    let launcher = Launcher {
        store: Store::new(home),
        through: None,
        listener: Box::new(|_| {}),
        output: None,
        plugins: Vec::new(),
        command: environment::program(),
    };
    launcher.run(folder, lock)
}
