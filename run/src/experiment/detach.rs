//! Experiments that survive their terminal: the launcher is a process of its own, in a session of its own, and this
//! program in another role. Nothing of it is kept in memory, so that every verb works on it as on any other.

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

/// The hidden verb of the other role.
pub(crate) const SUPERVISE: [&str; 2] = ["experiment", "supervise"];

/// How long a launcher may take to begin.
const DEADLINE: Duration = Duration::from_secs(30);

/// Starts a launcher for the experiment in `folder`, which nobody has, and waits until it has it.
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
        // Where a task starts an experiment that is to outlive it.
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
                .unwrap_or("no word")
                .to_owned();
            return Err(failed(std::io::Error::other(format!("it ended with {status}: {}", last.trim()))));
        }
        if Instant::now() > deadline {
            // Else it might begin after it was said that it did not.
            let _ = child.kill();
            return Err(failed(std::io::ErrorKind::TimedOut.into()));
        }
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

/// Is the launcher of the experiment in `dir`, in a session of its own: no terminal can end it.
pub(crate) fn supervise(dir: &Path) -> Result<ExperimentReport, RunError> {
    // The only error there can be is that the session is its own already.
    let _ = rustix::process::setsid();
    let unknown = || ExperimentError::Unknown {
        asked: dir.display().to_string(),
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
