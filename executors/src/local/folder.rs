//! The folder of a local job, whose files are its whole state.
//!
//! | file | written by | contents |
//! |---|---|---|
//! | `plan.json` | `submit` | the launch plan |
//! | `logs/rank<R>.log` | rank R | its stdout and stderr |
//! | `logs/attempt-<N>/` | the next `submit` | logs of the Nth job in this folder |
//! | `failures.jsonl` | failing ranks | failure records of all jobs in this folder |
//! | `job.lock` | the supervisor | locked while the job runs |
//! | `cancel` | `cancel` | one byte per request, the letter of its signal: one cancels the job, two kill it |
//! | `job.json` | the supervisor, last | final state of the job |
//!
//! A folder holds one job at a time, and a further one after its end: a retry. `cancel`, `job.json` and the logs always
//! belong to the latest job. If `job.json` cannot be written, as on a full disk, the supervisor's process keeps the
//! final state in memory; other processes only see that the job has ended.

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use neva_schemas::{StopSignal, exit_class};
use rustix::fs::statvfs;
use serde::{Deserialize, Serialize};

use super::leftover;
use crate::{
    error::ExecutorError,
    failure::JobFailure,
    folder_lock::FolderLock,
    job::{JobHandle, JobState},
    job_files::{JobFiles, failed},
    submission::Submission,
};

const SCHEME: &str = "local://";
const LOCK_FILE: &str = "job.lock";
const CANCEL_FILE: &str = "cancel";
const RECORD_FILE: &str = "job.json";
const RECORD_FORMAT: u32 = 1;

/// A job's folder.
#[derive(Debug, Clone)]
pub(super) struct JobFolder {
    files: JobFiles,
}

/// Final state of a job.
#[derive(Debug, Serialize, Deserialize)]
struct JobRecord {
    format: u32,
    state: JobState,
}

/// Final states of this process's jobs that could not be written to their folders, as on a full disk.
static UNRECORDED: Mutex<BTreeMap<PathBuf, JobState>> = Mutex::new(BTreeMap::new());

impl JobFolder {
    /// Prepares the folder for a job: acquires its lock, moves the logs of an earlier job and writes the submission's
    /// files.
    pub(super) async fn acquire(submission: &Submission) -> Result<(Self, FolderLock), ExecutorError> {
        let folder = Self {
            files: JobFiles::new(&submission.dir),
        };
        let dir = folder.dir();
        fs::create_dir_all(dir).map_err(failed("create", dir))?;
        let was_left = dir.join(LOCK_FILE).exists() && !dir.join(RECORD_FILE).exists();
        let path = dir.join(LOCK_FILE);
        let lock_path = path.clone();
        let lock = tokio::task::spawn_blocking(move || FolderLock::take(&lock_path)).await;
        let lock = lock.unwrap_or_else(|error| Err(error.into())).map_err(failed("lock", &path))?;
        let lock = lock.ok_or_else(|| ExecutorError::AlreadyRunning { dir: dir.to_owned() })?;

        if was_left {
            leftover::end(dir).await;
        }
        unrecorded().remove(dir);
        let logs = submission.processes().iter().map(|process| &process.log);
        folder.files.prepare(submission, &[RECORD_FILE, CANCEL_FILE], logs)?;
        Ok((folder, lock))
    }

    /// Returns the folder of a job.
    pub(super) fn from_handle(job: &JobHandle) -> Result<Self, ExecutorError> {
        let dir = job.0.strip_prefix(SCHEME).map(PathBuf::from);
        match dir.filter(|dir| dir.join(LOCK_FILE).is_file()) {
            Some(dir) => Ok(Self { files: JobFiles::new(dir) }),
            None => Err(ExecutorError::UnknownJob { job: job.clone() }),
        }
    }

    pub(super) fn dir(&self) -> &Path {
        self.files.dir()
    }

    pub(super) fn files(&self) -> &JobFiles {
        &self.files
    }

    pub(super) fn handle(&self) -> JobHandle {
        JobHandle(format!("{SCHEME}{}", self.dir().display()))
    }

    /// Returns true if the job's supervisor is alive.
    fn is_held(&self) -> Result<bool, ExecutorError> {
        let path = self.dir().join(LOCK_FILE);
        FolderLock::is_held(&path).map_err(failed("lock", &path))
    }

    /// Returns the state of the job.
    pub(super) fn state(&self) -> Result<JobState, ExecutorError> {
        if let Some(state) = self.record()? {
            return Ok(state);
        }
        if self.is_held()? {
            return Ok(JobState::Running);
        }
        // The job may have ended between the two checks.
        if let Some(state) = self.record()? {
            return Ok(state);
        }
        if let Some(state) = unrecorded().get(self.dir()) {
            return Ok(state.clone());
        }
        let path = self.dir().join(RECORD_FILE);
        let failure = match disk_is_full(self.dir()) {
            true => full_disk(
                format!(
                    "the job's final state could not be recorded in {}: the disk is full",
                    path.display()
                ),
                self.dir(),
            ),
            false => JobFailure::for_job(
                exit_class::CLUSTER,
                format!("the job ended without writing {}: its launcher was killed", path.display()),
            ),
        };
        Ok(JobState::Failed(failure))
    }

    /// Records the final state in the job's folder, or if that fails in memory, for queries from this process.
    pub(super) fn end(&self, state: JobState) {
        let Err(error) = self.write_record(&state) else { return };
        let (state, error) = (with_disk_help(state, self.dir(), &error), chain(&error));
        match &state {
            // The failure of the job itself is more important, and is printed later.
            JobState::Failed(_) => tracing::warn!("the job's final state is not recorded: {error}"),
            _ => tracing::error!("the job's final state is not recorded: {error}"),
        }
        unrecorded().insert(self.dir().to_owned(), state);
    }

    /// Writes the final state atomically.
    fn write_record(&self, state: &JobState) -> Result<(), ExecutorError> {
        let text = serde_json::to_string(&JobRecord {
            format: RECORD_FORMAT,
            state: state.clone(),
        })? + "\n";
        self.files.write(RECORD_FILE, &text)
    }

    fn record(&self) -> Result<Option<JobState>, ExecutorError> {
        let path = self.dir().join(RECORD_FILE);
        let Some(text) = self.files.read(RECORD_FILE)? else {
            return Ok(None);
        };
        let record: JobRecord = serde_json::from_str(&text).map_err(|error| failed("read", &path)(error.into()))?;
        if record.format != RECORD_FORMAT {
            let reason = format!("its format is {}, this program reads {RECORD_FORMAT}", record.format);
            return Err(failed("read", &path)(io::Error::new(io::ErrorKind::InvalidData, reason)));
        }
        Ok(Some(record.state))
    }

    /// Requests cancellation from the supervisor. If it was killed, ends the processes that it left behind.
    pub(super) async fn request_cancel(&self, signal: StopSignal) -> Result<(), ExecutorError> {
        let path = self.dir().join(CANCEL_FILE);
        let open = OpenOptions::new().create(true).append(true).open(&path);
        open.and_then(|mut file| file.write_all(&[letter(signal)]))
            .map_err(failed("write", &path))?;
        if !self.is_held()? {
            leftover::end(self.dir()).await;
        }
        Ok(())
    }

    /// Returns the number of cancel requests.
    pub(super) fn cancel_requests(&self) -> u64 {
        fs::metadata(self.dir().join(CANCEL_FILE)).map_or(0, |metadata| metadata.len())
    }

    /// Returns the signal of the first cancel request.
    pub(super) fn stop_signal(&self) -> StopSignal {
        let requests = fs::read(self.dir().join(CANCEL_FILE)).unwrap_or_default();
        let of = |byte: &u8| StopSignal::ALL.into_iter().find(|signal| letter(*signal) == *byte);
        requests.first().and_then(of).unwrap_or_default()
    }
}

/// Returns the letter of a signal in the `cancel` file.
fn letter(signal: StopSignal) -> u8 {
    match signal {
        StopSignal::Terminate => b'T',
        StopSignal::Interrupt => b'I',
        StopSignal::Hangup => b'H',
        StopSignal::User1 => b'U',
    }
}

/// Returns true if the disk of a folder is full.
fn disk_is_full(dir: &Path) -> bool {
    statvfs(dir).is_ok_and(|disk| disk.f_bavail == 0 || (disk.f_files > 0 && disk.f_favail == 0))
}

/// Creates the failure for a full disk.
fn full_disk(message: String, dir: &Path) -> JobFailure {
    JobFailure {
        help: Some(full_disk_help(dir)),
        ..JobFailure::for_job(exit_class::CLUSTER, message)
    }
}

/// Returns the suggestion for a full disk.
fn full_disk_help(dir: &Path) -> String {
    format!(
        "make room on the disk of {}, or name another folder with `--set dir=...`",
        dir.display()
    )
}

/// Adds a suggestion to a failure if the final state could not be written for lack of disk space.
fn with_disk_help(state: JobState, dir: &Path, error: &ExecutorError) -> JobState {
    let full = matches!(error, ExecutorError::File { source, .. } if source.kind() == io::ErrorKind::StorageFull);
    match state {
        JobState::Failed(failure) if full => JobState::Failed(JobFailure {
            help: failure.help.or_else(|| Some(full_disk_help(dir))),
            ..failure
        }),
        other => other,
    }
}

/// Formats an error and its causes on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Locks [`UNRECORDED`]. It is valid after a panic of another thread: every change is one insertion or removal.
fn unrecorded() -> MutexGuard<'static, BTreeMap<PathBuf, JobState>> {
    UNRECORDED.lock().unwrap_or_else(PoisonError::into_inner)
}
