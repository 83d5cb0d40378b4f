//! The folder of an experiment.
//!
//! | file | content |
//! |---|---|
//! | `experiment.json` | the [`ExperimentRecord`] |
//! | `git.json`, `git.diff` | the commit of the working directory, and the changes since |
//! | `programs.json` | the launcher and the rank program: paths, hashes, versions |
//! | `events.jsonl` | the timeline: one line for each change, from which every state is derived |
//! | `launcher.lock` | held by the running launcher |
//! | `launcher.log` | output of a detached launcher |
//! | `cancel` | requests to stop, one a line: the name of a task, or an empty line for all |
//! | `tasks/NAME/` | the task's job: `submission.json`, logs, and the outputs of a fine-tune without a folder of its own |
//!
//! Files that are read again carry a format number; an unsupported one is refused.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use neva_executors::{Executor, FolderLock, JobHandle, JobStatus, Submission};
use neva_schemas::{ExecutorConfig, StopSignal, env};
use serde::{Deserialize, Serialize};

use super::{
    error::ExperimentError,
    event::{EVENTS_FILE, EVENTS_FORMAT, EventLog, Timeline},
    git::{self, GitState},
    record::{ExperimentRecord, file_error, read_json, write_json_unsynced},
    report::{ExperimentReport, TaskReport, TaskState},
};
use crate::{error::RunError, executor};

const LOCK_FILE: &str = "launcher.lock";
const CANCEL_FILE: &str = "cancel";
const SUBMISSION_FILE: &str = "submission.json";
const SUBMISSION_FORMAT: u32 = 1;

/// The folder of an experiment in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExperimentFolder {
    /// The folder, absolute.
    pub dir: PathBuf,
    /// The experiment's id, which is the folder's name.
    pub id: String,
}

/// Lock of the running launcher.
#[derive(Debug)]
pub(super) struct LauncherLock {
    /// Offset of this launcher's first request in the file of cancel requests.
    pub(super) requests_from: u64,
    _lock: FolderLock,
}

/// The file `submission.json` of a task.
#[derive(Serialize)]
struct Submitted<'a> {
    format: u32,
    /// The job's folder.
    dir: &'a Path,
    submission: &'a Submission,
}

/// State of an experiment, as read from its folder.
#[derive(Debug, Clone)]
pub struct Status {
    /// The experiment as it was started.
    pub record: ExperimentRecord,
    /// State of its tasks.
    pub report: ExperimentReport,
    /// True if a launcher is running it.
    pub alive: bool,
    /// Exit code, if it finished.
    pub class: Option<u8>,
    /// Damaged lines of the timeline, from 1.
    pub broken_events: Vec<usize>,
}

impl Status {
    /// Returns the state as one word.
    pub fn name(&self) -> &'static str {
        state_name(self.alive, self.class)
    }

    /// Reads the state again; the record does not change.
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

    /// Returns the executor of a task.
    ///
    /// # Errors
    /// The way to its machine cannot be used.
    pub(crate) fn executor(&self, task: &str) -> Result<Arc<dyn Executor>, RunError> {
        Ok(executor::executor(self.executor_config(task))?)
    }

    fn executor_config(&self, task: &str) -> &ExecutorConfig {
        let task = self.record.experiment.tasks.get(task);
        task.and_then(|task| task.executor.as_ref()).unwrap_or(&self.record.executor)
    }

    /// Queries the status of the jobs of running tasks that a cluster schedules; those of one executor in one query. Empty
    /// where all tasks run on this machine.
    pub(crate) async fn jobs(&self) -> BTreeMap<String, Result<JobStatus, String>> {
        let mut groups: Vec<(&ExecutorConfig, Vec<(&str, &JobHandle)>)> = Vec::new();
        for task in self.report.tasks.iter().filter(|task| task.state == TaskState::Running) {
            let config = self.executor_config(&task.name);
            let (false, Some(job)) = (matches!(config, ExecutorConfig::Local(_)), &task.job) else {
                continue;
            };
            match groups.iter_mut().find(|(known, _)| *known == config) {
                Some((_, jobs)) => jobs.push((&task.name, job)),
                None => groups.push((config, vec![(&task.name, job)])),
            }
        }
        let mut found = BTreeMap::new();
        for (config, jobs) in groups {
            let handles: Vec<_> = jobs.iter().map(|(_, job)| (*job).clone()).collect();
            let statuses: Vec<Result<JobStatus, String>> = match executor::executor(config) {
                Ok(executor) => {
                    let statuses = executor.statuses(&handles).await;
                    statuses.into_iter().map(|status| status.map_err(|error| error.reason())).collect()
                }
                Err(error) => jobs.iter().map(|_| Err(error.reason())).collect(),
            };
            found.extend(jobs.iter().map(|(name, _)| (*name).to_owned()).zip(statuses));
        }
        found
    }

    /// Cancels the job of a task whose launcher died.
    pub(crate) async fn cancel_job(&self, task: &TaskReport) -> Result<(), RunError> {
        match &task.job {
            Some(job) => Ok(self.executor(&task.name)?.cancel(job, StopSignal::Terminate).await?),
            None => Ok(()),
        }
    }
}

/// Returns the state of an experiment as one word; `interrupted` if its launcher died.
pub(super) fn state_name(alive: bool, class: Option<u8>) -> &'static str {
    match (alive, class) {
        (_, Some(0)) => "succeeded",
        (_, Some(_)) => "failed",
        (true, None) => "running",
        (false, None) => "interrupted",
    }
}

impl ExperimentFolder {
    /// Reads the state of the experiment.
    ///
    /// # Errors
    /// The record cannot be read.
    pub fn status(&self) -> Result<Status, RunError> {
        // Checked first: if the launcher ends in between, the timeline already has its last event.
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

    /// Returns the state of the working directory at the start of the experiment.
    ///
    /// # Errors
    /// The record cannot be read.
    pub fn git(&self) -> Result<Option<GitState>, RunError> {
        git::read(&self.dir)
    }

    /// Returns the folder of a task.
    pub fn task(&self, name: &str) -> PathBuf {
        self.dir.join("tasks").join(name)
    }

    /// Writes what is submitted for a task.
    pub(super) fn write_submission(&self, task: &str, submission: &Submission) -> Result<(), RunError> {
        let folder = self.task(task);
        fs::create_dir_all(&folder).map_err(file_error("create", &folder))?;
        let (format, dir) = (SUBMISSION_FORMAT, &submission.dir);
        write_json_unsynced(&folder.join(SUBMISSION_FILE), &Submitted { format, dir, submission })
    }

    /// Returns the folder of the job that was submitted for `task`, if any.
    pub(super) fn submitted_dir(&self, task: &str) -> Option<PathBuf> {
        /// The fields of [`Submitted`] that are read.
        #[derive(Deserialize)]
        struct JobFolder {
            dir: PathBuf,
        }
        let job = read_json::<JobFolder>(&self.task(task).join(SUBMISSION_FILE), SUBMISSION_FORMAT);
        Some(job.ok()??.dir)
    }

    /// Returns the GPUs of the job that was submitted for `task`, as in `CUDA_VISIBLE_DEVICES`.
    pub(super) fn submitted_gpus(&self, task: &str) -> Option<String> {
        /// The fields of [`Submitted`] that are read.
        #[derive(Deserialize)]
        struct Job {
            submission: Processes,
        }
        #[derive(Deserialize)]
        struct Processes {
            processes: Vec<Process>,
        }
        #[derive(Deserialize)]
        struct Process {
            env: BTreeMap<String, String>,
        }
        let job = read_json::<Job>(&self.task(task).join(SUBMISSION_FILE), SUBMISSION_FORMAT).ok()??;
        job.submission.processes.into_iter().next()?.env.remove(env::CUDA_VISIBLE_DEVICES)
    }

    /// Locks the experiment for a launcher, or fails if another launcher holds the lock.
    pub(super) fn lock(&self) -> Result<LauncherLock, RunError> {
        // Earlier requests were for another launcher. Requests for this one come after the lock is taken.
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

    /// Returns true if a launcher is running the experiment.
    pub fn is_alive(&self) -> bool {
        // A lock file that cannot be read was never locked.
        FolderLock::is_held(&self.dir.join(LOCK_FILE)).unwrap_or_default()
    }

    /// Requests the launcher to stop `task`, or all tasks.
    pub(crate) fn request_cancel(&self, task: Option<&str>) -> Result<(), RunError> {
        let path = self.dir.join(CANCEL_FILE);
        let line = format!("{}\n", task.unwrap_or_default());
        let file = OpenOptions::new().create(true).append(true).open(&path);
        file.and_then(|mut file| file.write_all(line.as_bytes()))
            .map_err(file_error("write", &path))
    }

    /// Returns the requests from byte `from` on, as complete lines, and the offset of the next one.
    pub(super) fn cancel_requests(&self, from: u64) -> (Vec<String>, u64) {
        let mut bytes = Vec::new();
        // Without a file there are no requests yet.
        let _ = File::open(self.dir.join(CANCEL_FILE)).and_then(|mut file| {
            file.seek(SeekFrom::Start(from))?;
            file.read_to_end(&mut bytes)
        });
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let text = String::from_utf8_lossy(&bytes[..whole]);
        (text.lines().map(str::to_owned).collect(), from + whole as u64)
    }

    /// Returns the log file of a detached launcher.
    pub(super) fn launcher_log(&self) -> PathBuf {
        self.dir.join("launcher.log")
    }
}
