//! The folder of a local job: all that is known of it, in files.
//!
//! | file | written by | says |
//! |---|---|---|
//! | `plan.json` | `submit` | what runs |
//! | `logs/rank<R>.log` | rank R | its output, both streams |
//! | `logs/attempt-<N>/` | `submit`, the next time | the logs of the Nth job in this folder |
//! | `failures.jsonl` | failing ranks | why, for all jobs that ran in this folder |
//! | `job.lock` | the supervisor holds it | the job runs |
//! | `cancel` | `cancel` | one byte per request: end; two: kill |
//! | `job.json` | the supervisor, last | how the job ended |
//!
//! A folder takes one job at a time, and another when that has ended: a run that is tried again. `cancel`,
//! `job.json` and the logs are always the latest job's.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
};

use neva_schemas::{FAILURES_FILE, RankFailure, exit_class};
use serde::{Deserialize, Serialize};

use super::leftover;
use crate::{
    error::ExecutorError,
    executor::{JobHandle, JobState, LogChunk},
    failure::{JobFailure, TAIL_LINES},
    folder_lock::FolderLock,
    submission::Submission,
};

const SCHEME: &str = "local://";
const LOCK_FILE: &str = "job.lock";
const CANCEL_FILE: &str = "cancel";
const RECORD_FILE: &str = "job.json";
const RECORD_FORMAT: u32 = 1;
const LOGS: &str = "logs";
/// Most bytes of a log that are read at once.
const CHUNK: u64 = 64 << 10;

/// Log of a rank, relative to the job's folder.
pub fn rank_log(rank: u32) -> PathBuf {
    format!("{LOGS}/rank{rank}.log").into()
}

/// A job's folder.
#[derive(Debug, Clone)]
pub(super) struct JobFolder {
    dir: PathBuf,
}

/// How a job ended.
#[derive(Debug, Serialize, Deserialize)]
struct JobRecord {
    format: u32,
    state: JobState,
}

impl JobFolder {
    /// Makes the folder the job's: takes the lock that says that it runs, puts aside what an earlier job
    /// left, and writes the submission's files.
    pub(super) async fn take(submission: &Submission) -> Result<(Self, FolderLock), ExecutorError> {
        let folder = Self {
            dir: submission.dir.clone(),
        };
        fs::create_dir_all(&folder.dir).map_err(failed("create", &folder.dir))?;
        let was_left = folder.dir.join(LOCK_FILE).exists() && !folder.dir.join(RECORD_FILE).exists();
        let path = folder.dir.join(LOCK_FILE);
        let asked = path.clone();
        let lock = tokio::task::spawn_blocking(move || FolderLock::take(&asked)).await;
        let lock = lock.unwrap_or_else(|error| Err(error.into())).map_err(failed("lock", &path))?;
        let lock = lock.ok_or_else(|| ExecutorError::AlreadyRunning { dir: folder.dir.clone() })?;

        if was_left {
            leftover::end(&folder.dir).await;
        }
        for stale in [RECORD_FILE, CANCEL_FILE] {
            let path = folder.dir.join(stale);
            optional(fs::remove_file(&path)).map_err(failed("remove", &path))?;
        }
        folder.put_logs_aside()?;

        let files = submission
            .files
            .keys()
            .chain(submission.processes.iter().map(|process| &process.log));
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

    /// Moves the logs of the job before this one to the first free `attempt-<N>` beside them.
    fn put_logs_aside(&self) -> Result<(), ExecutorError> {
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
        let mut aside = logs.join("attempt-1");
        while aside.exists() {
            number += 1;
            aside.set_file_name(format!("attempt-{number}"));
        }
        fs::create_dir(&aside).map_err(failed("create", &aside))?;
        for file in files {
            fs::rename(file.path(), aside.join(file.file_name())).map_err(failed("move", &file.path()))?;
        }
        Ok(())
    }

    /// The folder that a handle names.
    pub(super) fn of(job: &JobHandle) -> Result<Self, ExecutorError> {
        let dir = job.0.strip_prefix(SCHEME).map(PathBuf::from);
        match dir.filter(|dir| dir.join(LOCK_FILE).is_file()) {
            Some(dir) => Ok(Self { dir }),
            None => Err(ExecutorError::UnknownJob { job: job.clone() }),
        }
    }

    pub(super) fn handle(&self) -> JobHandle {
        JobHandle(format!("{SCHEME}{}", self.dir.display()))
    }

    /// Whether the job's supervisor lives.
    fn is_held(&self) -> Result<bool, ExecutorError> {
        let path = self.dir.join(LOCK_FILE);
        FolderLock::is_held(&path).map_err(failed("lock", &path))
    }

    /// What became of the job.
    pub(super) fn state(&self) -> Result<JobState, ExecutorError> {
        if let Some(state) = self.record()? {
            return Ok(state);
        }
        if self.is_held()? {
            return Ok(JobState::Running);
        }
        // The job may have ended between the two questions.
        Ok(self.record()?.unwrap_or_else(|| {
            let path = self.dir.join(RECORD_FILE);
            JobState::Failed(JobFailure::of_job(
                exit_class::CLUSTER,
                format!(
                    "the job ended without leaving {}: its launcher was killed, or the disk is full",
                    path.display()
                ),
            ))
        }))
    }

    /// Writes how the job ended, as a whole or not at all.
    pub(super) fn write_record(&self, state: JobState) -> Result<(), ExecutorError> {
        let path = self.dir.join(RECORD_FILE);
        let partial = path.with_extension("json.partial");
        let text = serde_json::to_string(&JobRecord {
            format: RECORD_FORMAT,
            state,
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

    /// Asks the supervisor to end the job. What one that was killed left behind is ended here.
    pub(super) async fn request_cancel(&self) -> Result<(), ExecutorError> {
        let path = self.dir.join(CANCEL_FILE);
        let open = OpenOptions::new().create(true).append(true).open(&path);
        open.and_then(|mut file| file.write_all(b".")).map_err(failed("write", &path))?;
        if !self.is_held()? {
            leftover::end(&self.dir).await;
        }
        Ok(())
    }

    /// How often the job's end was asked for.
    pub(super) fn cancel_requests(&self) -> u64 {
        fs::metadata(self.dir.join(CANCEL_FILE)).map_or(0, |metadata| metadata.len())
    }

    /// Output of `rank` from `offset` on.
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

    /// The path of a rank's log.
    pub(super) fn log(&self, rank: u32) -> PathBuf {
        self.dir.join(rank_log(rank))
    }

    /// The last lines of a rank's log; none where it cannot be read.
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

    /// Length of the file of failures: what is behind it comes from ranks that start now.
    pub(super) fn failures_len(&self) -> u64 {
        fs::metadata(self.dir.join(FAILURES_FILE)).map_or(0, |metadata| metadata.len())
    }

    /// The records that failing ranks left from byte `from` on. What a dying rank did not finish is passed
    /// over, and what another wrote behind it on the same line is read.
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

/// `None` for a file that is not there.
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
