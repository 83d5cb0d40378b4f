//! Files in the folder of a job on this machine: logs of ranks, and records of failures.

use std::{
    fs::{self, File},
    io::{self, Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
};

use neva_schemas::{FAILURES_FILE, RankFailure};

use crate::{error::ExecutorError, event::JobResults, executor::LogChunk, failure::TAIL_LINES, submission::Submission};

/// Folder of logs within the job's folder.
pub(crate) const LOGS: &str = "logs";
/// Maximum number of bytes of a log that are read at once.
const CHUNK: u64 = 64 << 10;

/// Returns the log of a rank, relative to the job's folder.
pub fn rank_log(rank: u32) -> PathBuf {
    format!("{LOGS}/rank{rank}.log").into()
}

/// The files of a job.
#[derive(Debug, Clone)]
pub(crate) struct JobFiles {
    dir: PathBuf,
}

impl JobFiles {
    pub(crate) fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Prepares the folder for a further job: removes `stale` files and the report, moves the logs of the earlier job, and
    /// writes the files of the submission. `logs` are the files that processes will write.
    pub(crate) fn prepare<'a>(
        &self,
        submission: &'a Submission,
        stale: &[&str],
        logs: impl Iterator<Item = &'a PathBuf>,
    ) -> Result<(), ExecutorError> {
        for stale in stale {
            let path = self.dir.join(stale);
            optional(fs::remove_file(&path)).map_err(failed("remove", &path))?;
        }
        JobResults::clear(&self.dir)?;
        self.archive_logs()?;
        for parent in submission.files.keys().chain(logs).filter_map(|file| file.parent()) {
            let dir = self.dir.join(parent);
            fs::create_dir_all(&dir).map_err(failed("create", &dir))?;
        }
        for (file, text) in &submission.files {
            let path = self.dir.join(file);
            fs::write(&path, text).map_err(failed("write", &path))?;
        }
        Ok(())
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

    /// Writes a file atomically.
    pub(crate) fn write(&self, file: &str, text: &str) -> Result<(), ExecutorError> {
        let path = self.dir.join(file);
        let partial = self.dir.join(format!("{file}.partial"));
        fs::write(&partial, text)
            .and_then(|()| fs::rename(&partial, &path))
            .map_err(failed("write", &path))
    }

    /// Reads a text file; `None` if it does not exist.
    pub(crate) fn read(&self, file: &str) -> Result<Option<String>, ExecutorError> {
        let path = self.dir.join(file);
        optional(fs::read_to_string(&path)).map_err(failed("read", &path))
    }

    /// Reads the output of `rank` from `offset` on.
    pub(crate) fn logs(&self, rank: u32, offset: u64) -> Result<LogChunk, ExecutorError> {
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
    pub(crate) fn log(&self, rank: u32) -> PathBuf {
        self.dir.join(rank_log(rank))
    }

    /// Returns the last lines of a rank's log; none if it cannot be read.
    pub(crate) fn log_tail(&self, rank: u32) -> Vec<String> {
        let len = fs::metadata(self.log(rank)).map_or(0, |metadata| metadata.len());
        let chunk = self.logs(rank, len.saturating_sub(CHUNK)).unwrap_or_default();
        last_lines(&String::from_utf8_lossy(&chunk.bytes))
    }

    /// Returns the length of `failures.jsonl`; records after it are of ranks that start now.
    pub(crate) fn failures_len(&self) -> u64 {
        fs::metadata(self.dir.join(FAILURES_FILE)).map_or(0, |metadata| metadata.len())
    }

    /// Reads the failure records from byte `from` on. An incomplete record of a dying rank is skipped; a record that follows
    /// on the same line is read.
    pub(crate) fn failures(&self, from: u64) -> Vec<RankFailure> {
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

/// Returns the last lines of a text, as failures quote them.
pub(crate) fn last_lines(text: &str) -> Vec<String> {
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..]
        .iter()
        .map(|line| (*line).to_owned())
        .collect()
}

/// Returns `None` for a missing file.
pub(crate) fn optional<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

/// Returns the error of a failed access to a file.
pub(crate) fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ExecutorError {
    move |source| ExecutorError::File {
        action,
        path: path.to_owned(),
        source,
    }
}
