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
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use neva_schemas::{FAILURES_FILE, RankFailure, StopSignal, exit_class};
use rustix::fs::statvfs;
use serde::{Deserialize, Serialize};

use super::leftover;
use crate::{
    error::ExecutorError,
    event::JobResults,
    executor::LogChunk,
    failure::{JobFailure, TAIL_LINES},
    folder_lock::FolderLock,
    job::{JobHandle, JobState},
    submission::Submission,
};

const SCHEME: &str = "local://";
const LOCK_FILE: &str = "job.lock";
const CANCEL_FILE: &str = "cancel";
const RECORD_FILE: &str = "job.json";
const RECORD_FORMAT: u32 = 1;
const LOGS: &str = "logs";
/// Maximum number of bytes of a log that are read at once.
const CHUNK: u64 = 64 << 10;

/// Returns the log of a rank, relative to the job's folder.
pub fn rank_log(rank: u32) -> PathBuf {
    format!("{LOGS}/rank{rank}.log").into()
}

/// A job's folder.
#[derive(Debug, Clone)]
pub(super) struct JobFolder {
    dir: PathBuf,
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
            dir: submission.dir.clone(),
        };
        fs::create_dir_all(&folder.dir).map_err(failed("create", &folder.dir))?;
        let was_left = folder.dir.join(LOCK_FILE).exists() && !folder.dir.join(RECORD_FILE).exists();
        let path = folder.dir.join(LOCK_FILE);
        let lock_path = path.clone();
        let lock = tokio::task::spawn_blocking(move || FolderLock::take(&lock_path)).await;
        let lock = lock.unwrap_or_else(|error| Err(error.into())).map_err(failed("lock", &path))?;
        let lock = lock.ok_or_else(|| ExecutorError::AlreadyRunning { dir: folder.dir.clone() })?;

        if was_left {
            leftover::end(&folder.dir).await;
        }
        unrecorded().remove(&folder.dir);
        for stale in [RECORD_FILE, CANCEL_FILE] {
            let path = folder.dir.join(stale);
            optional(fs::remove_file(&path)).map_err(failed("remove", &path))?;
        }
        JobResults::clear(&folder.dir)?;
        folder.archive_logs()?;

        let files = submission
            .files
            .keys()
            .chain(submission.processes().iter().map(|process| &process.log));
        for parent in files.filter_map(|file| file.parent()) {
            let dir = folder.dir.join(parent);
            fs::create_dir_all(&dir).map_err(failed("create", &dir))?;
        }
        for (file, text) in &submission.files {
            let path = folder.dir.join(file);
            fs::write(&path, text).map_err(failed("write", &path))?;
        }
        Ok((folder, lock))
    }

    /// Moves the logs of the previous job to the first free `attempt-<N>` folder.
    fn archive_logs(&self) -> Result<(), ExecutorError> {
        let logs = self.dir.join(LOGS);
        let entries = optional(fs::read_dir(&logs)).map_err(failed("read", &logs))?;
        let mut files = Vec::new();
        for entry in entries.into_iter().flatten() {
            let entry = entry.map_err(failed("read", &logs))?;
            if entry.file_type().is_ok_and(|kind| kind.is_file()) {
                files.push(entry);
            }
        }
        if files.is_empty() {
            return Ok(());
        }
        let mut number = 1;
        let mut archive = logs.join("attempt-1");
        while archive.exists() {
            number += 1;
            archive.set_file_name(format!("attempt-{number}"));
        }
        fs::create_dir(&archive).map_err(failed("create", &archive))?;
        for file in files {
            fs::rename(file.path(), archive.join(file.file_name())).map_err(failed("move", &file.path()))?;
        }
        Ok(())
    }

    /// Returns the folder of a job.
    pub(super) fn from_handle(job: &JobHandle) -> Result<Self, ExecutorError> {
        let dir = job.0.strip_prefix(SCHEME).map(PathBuf::from);
        match dir.filter(|dir| dir.join(LOCK_FILE).is_file()) {
            Some(dir) => Ok(Self { dir }),
            None => Err(ExecutorError::UnknownJob { job: job.clone() }),
        }
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn handle(&self) -> JobHandle {
        JobHandle(format!("{SCHEME}{}", self.dir.display()))
    }

    /// Returns true if the job's supervisor is alive.
    fn is_held(&self) -> Result<bool, ExecutorError> {
        let path = self.dir.join(LOCK_FILE);
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
        if let Some(state) = unrecorded().get(&self.dir) {
            return Ok(state.clone());
        }
        let path = self.dir.join(RECORD_FILE);
        let failure = match disk_is_full(&self.dir) {
            true => full_disk(
                format!(
                    "the job's final state could not be recorded in {}: the disk is full",
                    path.display()
                ),
                &self.dir,
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
        let (state, error) = (with_disk_help(state, &self.dir, &error), chain(&error));
        match &state {
            // The failure of the job itself is more important, and is printed later.
            JobState::Failed(_) => tracing::warn!("the job's final state is not recorded: {error}"),
            _ => tracing::error!("the job's final state is not recorded: {error}"),
        }
        unrecorded().insert(self.dir.clone(), state);
    }

    /// Writes the final state atomically.
    fn write_record(&self, state: &JobState) -> Result<(), ExecutorError> {
        let path = self.dir.join(RECORD_FILE);
        let partial = path.with_extension("json.partial");
        let text = serde_json::to_string(&JobRecord {
            format: RECORD_FORMAT,
            state: state.clone(),
        })? + "\n";
        fs::write(&partial, text)
            .and_then(|()| fs::rename(&partial, &path))
            .map_err(failed("write", &path))
    }

    fn record(&self) -> Result<Option<JobState>, ExecutorError> {
        let path = self.dir.join(RECORD_FILE);
        let Some(text) = optional(fs::read_to_string(&path)).map_err(failed("read", &path))? else {
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
        let path = self.dir.join(CANCEL_FILE);
        let open = OpenOptions::new().create(true).append(true).open(&path);
        open.and_then(|mut file| file.write_all(&[letter(signal)]))
            .map_err(failed("write", &path))?;
        if !self.is_held()? {
            leftover::end(&self.dir).await;
        }
        Ok(())
    }

    /// Returns the number of cancel requests.
    pub(super) fn cancel_requests(&self) -> u64 {
        fs::metadata(self.dir.join(CANCEL_FILE)).map_or(0, |metadata| metadata.len())
    }

    /// Returns the signal of the first cancel request.
    pub(super) fn stop_signal(&self) -> StopSignal {
        let requests = fs::read(self.dir.join(CANCEL_FILE)).unwrap_or_default();
        let of = |byte: &u8| StopSignal::ALL.into_iter().find(|signal| letter(*signal) == *byte);
        requests.first().and_then(of).unwrap_or_default()
    }

    /// Reads the output of `rank` from `offset` on.
    pub(super) fn logs(&self, rank: u32, offset: u64) -> Result<LogChunk, ExecutorError> {
        let path = self.log(rank);
        let mut bytes = Vec::new();
        let read = File::open(&path).and_then(|mut file| {
            file.seek(SeekFrom::Start(offset))?;
            file.take(CHUNK).read_to_end(&mut bytes)
        });
        let read = optional(read).map_err(failed("read", &path))?.unwrap_or(0);
        Ok(LogChunk {
            bytes,
            next: offset + read as u64,
        })
    }

    /// Returns the path of a rank's log.
    pub(super) fn log(&self, rank: u32) -> PathBuf {
        self.dir.join(rank_log(rank))
    }

    /// Returns the last lines of a rank's log; none if it cannot be read.
    pub(super) fn log_tail(&self, rank: u32) -> Vec<String> {
        let len = fs::metadata(self.log(rank)).map_or(0, |metadata| metadata.len());
        let chunk = self.logs(rank, len.saturating_sub(CHUNK)).unwrap_or_default();
        let text = String::from_utf8_lossy(&chunk.bytes);
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(TAIL_LINES)..]
            .iter()
            .map(|line| (*line).to_owned())
            .collect()
    }

    /// Returns the length of `failures.jsonl`; records after it are of ranks that start now.
    pub(super) fn failures_len(&self) -> u64 {
        fs::metadata(self.dir.join(FAILURES_FILE)).map_or(0, |metadata| metadata.len())
    }

    /// Reads the failure records from byte `from` on. An incomplete record of a dying rank is skipped; a record that follows
    /// on the same line is read.
    pub(super) fn failures(&self, from: u64) -> Vec<RankFailure> {
        let mut text = Vec::new();
        let read = File::open(self.dir.join(FAILURES_FILE)).and_then(|mut file| {
            file.seek(SeekFrom::Start(from))?;
            file.read_to_end(&mut text)
        });
        if read.is_err() {
            return Vec::new();
        }
        let record = |line: &str| line.match_indices('{').find_map(|(at, _)| serde_json::from_str(&line[at..]).ok());
        String::from_utf8_lossy(&text).lines().filter_map(record).collect()
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

/// Returns `None` for a missing file.
fn optional<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ExecutorError {
    move |source| ExecutorError::File {
        action,
        path: path.to_owned(),
        source,
    }
}
