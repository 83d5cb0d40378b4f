//! The folder of an experiment.
//!
//! | file | says |
//! |---|---|
//! | `experiment.json` | what it is: [`ExperimentRecord`] |
//! | `git.json`, `git.diff` | the commit of the working directory, and what was changed since |
//! | `programs.json` | the launcher and the rank program: paths, hashes, versions |
//! | `events.jsonl` | what happened: one line for each change, and from them every state |
//! | `launcher.lock` | its launcher holds it |
//! | `launcher.log` | what a detached launcher said |
//! | `cancel` | requests to end, a line each: a task's name, or nothing for all |
//! | `tasks/NAME/` | the task's job: `submission.json`, logs, and what a fine-tune writes that names no folder |
//!
//! What is read again carries a format number, and another one is refused.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use neva_executors::{Executor, FolderLock, Submission};
use serde::{Deserialize, Serialize};

use super::{
    error::ExperimentError,
    event::{EVENTS_FILE, EVENTS_FORMAT, EventLog, Timeline},
    git::{self, GitState},
    record::{ExperimentRecord, file_error, read_json, write_json_soon},
    report::{ExperimentReport, TaskReport},
};
use crate::{error::RunError, executor};

const LOCK_FILE: &str = "launcher.lock";
const CANCEL_FILE: &str = "cancel";
const SUBMISSION_FILE: &str = "submission.json";
const SUBMISSION_FORMAT: u32 = 1;

/// An experiment of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExperimentFolder {
    /// The folder, absolute.
    pub dir: PathBuf,
    /// The experiment's id, which is the folder's name.
    pub id: String,
}

/// Held by the launcher.
#[derive(Debug)]
pub(super) struct LauncherLock {
    /// Where the requests to its holder begin in the file of them.
    pub(super) requests_from: u64,
    _lock: FolderLock,
}

/// What was submitted for a task, as a file.
#[derive(Serialize)]
struct Submitted<'a> {
    format: u32,
    /// The job's folder.
    dir: &'a Path,
    submission: &'a Submission,
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

    /// Asks for the end of a task's job, where its launcher is gone.
    pub(crate) async fn cancel_job(&self, task: &TaskReport) -> Result<(), RunError> {
        match &task.job {
            Some(job) => Ok(self.executor(&task.name).cancel(job).await?),
            None => Ok(()),
        }
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
        let timeline = Timeline::read(&path).map_err(file_error("read", &path))?;
        match timeline.foreign {
            Some(found) => Err(ExperimentError::Format {
                path,
                found,
                expected: EVENTS_FORMAT,
            }
            .into()),
            None => Ok(timeline),
        }
    }

    pub(super) fn events(&self) -> Result<EventLog, RunError> {
        let path = self.dir.join(EVENTS_FILE);
        EventLog::open(path.clone()).map_err(file_error("write", &path))
    }

    /// The state of the working directory when the experiment was started.
    ///
    /// # Errors
    /// A record that cannot be read.
    pub fn git(&self) -> Result<Option<GitState>, RunError> {
        git::read(&self.dir)
    }

    /// The folder of a task.
    pub fn task(&self, name: &str) -> PathBuf {
        self.dir.join("tasks").join(name)
    }

    /// Keeps what was submitted for a task.
    pub(super) fn write_submission(&self, task: &str, submission: &Submission) -> Result<(), RunError> {
        let folder = self.task(task);
        fs::create_dir_all(&folder).map_err(file_error("create", &folder))?;
        let (format, dir) = (SUBMISSION_FORMAT, &submission.dir);
        write_json_soon(&folder.join(SUBMISSION_FILE), &Submitted { format, dir, submission })
    }

    /// The folder of the job that was submitted for `task`, where there was one.
    pub(super) fn submitted_dir(&self, task: &str) -> Option<PathBuf> {
        /// As much of [`Submitted`] as is read again.
        #[derive(Deserialize)]
        struct Place {
            dir: PathBuf,
        }
        let place = read_json::<Place>(&self.task(task).join(SUBMISSION_FILE), SUBMISSION_FORMAT);
        Some(place.ok()??.dir)
    }

    /// Takes the experiment, or says that a launcher has it.
    pub(super) fn lock(&self) -> Result<LauncherLock, RunError> {
        // What stands there now was asked of another launcher: whoever finds the lock taken by this one asks later.
        let requests_from = fs::metadata(self.dir.join(CANCEL_FILE)).map_or(0, |metadata| metadata.len());
        let path = self.dir.join(LOCK_FILE);
        match FolderLock::take(&path).map_err(file_error("lock", &path))? {
            Some(lock) => Ok(LauncherLock {
                requests_from,
                _lock: lock,
            }),
            None => Err(ExperimentError::Running { id: self.id.clone() }.into()),
        }
    }

    /// Whether a launcher has the experiment.
    pub fn is_alive(&self) -> bool {
        // One whose lock cannot be read was never locked.
        FolderLock::is_held(&self.dir.join(LOCK_FILE)).unwrap_or_default()
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
    pub(super) fn cancel_requests(&self, from: u64) -> (Vec<String>, u64) {
        let mut bytes = Vec::new();
        // Nobody asked yet where there is no file.
        let _ = File::open(self.dir.join(CANCEL_FILE)).and_then(|mut file| {
            file.seek(SeekFrom::Start(from))?;
            file.read_to_end(&mut bytes)
        });
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let text = String::from_utf8_lossy(&bytes[..whole]);
        (text.lines().map(str::to_owned).collect(), from + whole as u64)
    }

    /// Where a detached launcher writes.
    pub(super) fn launcher_log(&self) -> PathBuf {
        self.dir.join("launcher.log")
    }
}
