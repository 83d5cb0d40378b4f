//! The folder of an experiment.
//!
//! | file | says |
//! |---|---|
//! | `experiment.json` | what it is: [`ExperimentRecord`] |
//! | `git.json`, `git.diff` | the commit of the working directory, and what was changed since |
//! | `versions.json` | the rank program and its libtorch |
//! | `events.jsonl` | what happened: one line for each change, and from them every state |
//! | `launcher.lock` | its launcher holds it |
//! | `launcher.log` | what a detached launcher said |
//! | `cancel` | requests to end, a line each: a task's name, or nothing for all |
//! | `tasks/NAME/` | the task's job: `submission.json`, logs, and what a fine-tune writes that names no folder |

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use neva_executors::{Executor, JobState, Submission};
use rustix::fs::{FlockOperation, flock};

use super::{
    error::ExperimentError,
    event::{EVENTS_FILE, EventLog, Timeline},
    record::{ExperimentRecord, file_error, write_json_soon},
    report::{ExperimentReport, TaskReport},
};
use crate::{error::RunError, executor};

const LOCK_FILE: &str = "launcher.lock";
const CANCEL_FILE: &str = "cancel";
const SUBMISSION_FILE: &str = "submission.json";

/// An experiment of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExperimentFolder {
    /// The folder, absolute.
    pub dir: PathBuf,
    /// The experiment's id, which is the folder's name.
    pub id: String,
}

/// Held by the launcher; the system releases it should its holder die.
#[derive(Debug)]
pub(super) struct LauncherLock {
    _file: File,
}

/// The state of an experiment, as its folder tells it.
#[derive(Debug, Clone)]
pub struct Status {
    /// What it is.
    pub record: ExperimentRecord,
    /// What became of its tasks.
    pub report: ExperimentReport,
    /// Whether a launcher has it.
    pub alive: bool,
    /// Its exit code, where it came to its end.
    pub class: Option<u8>,
    /// Lines of the timeline that could not be read, from 1.
    pub broken_events: Vec<usize>,
}

impl Status {
    /// The state in a word.
    pub fn name(&self) -> &'static str {
        state_name(self.alive, self.class)
    }

    /// Reads again what changes.
    pub(crate) fn refresh(&mut self, folder: &ExperimentFolder) -> Result<(), RunError> {
        self.alive = folder.is_alive();
        let timeline = folder.timeline()?;
        for task in &mut self.report.tasks {
            if let Some(known) = timeline.tasks.get(&task.name) {
                task.clone_from(known);
            }
        }
        (self.class, self.broken_events) = (timeline.class, timeline.broken);
        Ok(())
    }

    /// The executor of a task.
    pub(crate) fn executor(&self, task: &str) -> Arc<dyn Executor> {
        let task = self.record.experiment.tasks.get(task);
        executor::executor(task.and_then(|task| task.executor.as_ref()).unwrap_or(&self.record.executor))
    }

    /// Asks for the end of a task's job, without a launcher. `false` where it does not run.
    pub(crate) async fn cancel_job(&self, task: &TaskReport) -> Result<bool, RunError> {
        let Some(job) = &task.job else { return Ok(false) };
        let executor = self.executor(&task.name);
        let runs = matches!(executor.state(job).await?, JobState::Pending | JobState::Running);
        if runs {
            executor.cancel(job).await?;
        }
        Ok(runs)
    }
}

/// The state of an experiment in a word: one that was left by its launcher is interrupted.
pub(super) fn state_name(alive: bool, class: Option<u8>) -> &'static str {
    match (alive, class) {
        (_, Some(0)) => "succeeded",
        (_, Some(_)) => "failed",
        (true, None) => "running",
        (false, None) => "interrupted",
    }
}

impl ExperimentFolder {
    /// What there is to know.
    ///
    /// # Errors
    /// A record that cannot be read.
    pub fn status(&self) -> Result<Status, RunError> {
        // Asked first: a launcher that ends in between has left its last event.
        let alive = self.is_alive();
        let record = ExperimentRecord::read(&self.dir)?;
        let timeline = self.timeline()?;
        let task = |name: &String| timeline.tasks.get(name).cloned().unwrap_or_else(|| TaskReport::new(name));
        let report = ExperimentReport {
            id: self.id.clone(),
            dir: self.dir.clone(),
            tasks: record.experiment.tasks.keys().map(task).collect(),
        };
        Ok(Status {
            report,
            alive,
            class: timeline.class,
            broken_events: timeline.broken,
            record,
        })
    }

    pub(super) fn timeline(&self) -> Result<Timeline, RunError> {
        let path = self.dir.join(EVENTS_FILE);
        Timeline::read(&path).map_err(file_error("read", &path))
    }

    pub(super) fn events(&self) -> Result<EventLog, RunError> {
        let path = self.dir.join(EVENTS_FILE);
        EventLog::open(path.clone()).map_err(file_error("write", &path))
    }

    /// The folder of a task.
    pub fn task(&self, name: &str) -> PathBuf {
        self.dir.join("tasks").join(name)
    }

    /// Keeps what was submitted for a task.
    pub(super) fn write_submission(&self, task: &str, submission: &Submission) -> Result<(), RunError> {
        let folder = self.task(task);
        fs::create_dir_all(&folder).map_err(file_error("create", &folder))?;
        write_json_soon(&folder.join(SUBMISSION_FILE), submission)
    }

    /// The folder of the job that was submitted for `task`, where there was one.
    pub(super) fn submitted_dir(&self, task: &str) -> Option<PathBuf> {
        let text = fs::read(self.task(task).join(SUBMISSION_FILE)).ok()?;
        let submission: serde_json::Value = serde_json::from_slice(&text).ok()?;
        Some(submission.get("dir")?.as_str()?.into())
    }

    /// Takes the experiment, or says that a launcher has it.
    pub(super) fn lock(&self) -> Result<LauncherLock, RunError> {
        let lock = self
            .try_lock(FlockOperation::NonBlockingLockExclusive)
            .map_err(file_error("lock", &self.dir.join(LOCK_FILE)))?;
        lock.ok_or_else(|| ExperimentError::Running { id: self.id.clone() }.into())
    }

    /// Whether a launcher has the experiment.
    pub fn is_alive(&self) -> bool {
        if !self.dir.join(LOCK_FILE).exists() {
            return false;
        }
        // Shared, so that two who ask at the same time do not take each other for the launcher.
        matches!(self.try_lock(FlockOperation::NonBlockingLockShared), Ok(None))
    }

    fn try_lock(&self, operation: FlockOperation) -> io::Result<Option<LauncherLock>> {
        let path = self.dir.join(LOCK_FILE);
        // To ask, a file that may only be read is enough.
        let file = match operation {
            FlockOperation::NonBlockingLockShared => File::open(path),
            _ => OpenOptions::new().create(true).append(true).open(path),
        }?;
        match flock(&file, operation) {
            Ok(()) => Ok(Some(LauncherLock { _file: file })),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Asks the launcher to end `task`, or all.
    pub(crate) fn request_cancel(&self, task: Option<&str>) -> Result<(), RunError> {
        let path = self.dir.join(CANCEL_FILE);
        let line = format!("{}\n", task.unwrap_or_default());
        let file = OpenOptions::new().create(true).append(true).open(&path);
        file.and_then(|mut file| file.write_all(line.as_bytes()))
            .map_err(file_error("write", &path))
    }

    /// The requests from byte `from` on, whole lines of them, and where the next begins.
    pub(super) fn cancel_requests(&self, from: usize) -> (Vec<String>, usize) {
        let text = fs::read_to_string(self.dir.join(CANCEL_FILE)).unwrap_or_default();
        let Some(end) = text.rfind('\n').map(|end| end + 1).filter(|end| *end > from) else {
            return (Vec::new(), from);
        };
        let lines = text.get(from..end).unwrap_or_default().lines().map(str::to_owned).collect();
        (lines, end)
    }

    /// Removes what an earlier launch was asked for.
    pub(super) fn forget_requests(&self) -> Result<(), RunError> {
        remove_if_there(&self.dir.join(CANCEL_FILE))
    }

    /// Where a detached launcher writes.
    pub(super) fn launcher_log(&self) -> PathBuf {
        self.dir.join("launcher.log")
    }
}

fn remove_if_there(path: &Path) -> Result<(), RunError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(file_error("remove", path)(error)),
        _ => Ok(()),
    }
}
