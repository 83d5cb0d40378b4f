//! The folder of a job in a container.

use std::{fs, os::unix::process::ExitStatusExt as _, path::PathBuf, process::ExitStatus};

use neva_schemas::StopSignal;
use serde::{Deserialize, Serialize};

use super::variables::PIPE_FILE;
use crate::{
    error::ExecutorError,
    exit::RankExit,
    job::JobHandle,
    job_files::{JobFiles, failed},
    submission::{JobKind, Submission},
};

const SCHEME: &str = "docker://";
/// File with the folder's [`JobRecord`].
const RECORD_FILE: &str = "container.json";
/// File that is locked during a submission.
pub(super) const LOCK_FILE: &str = "container.lock";
const EXITS_FILE: &str = "container.exits";
const CANCEL_FILE: &str = "cancel";

/// The folder of a job and its record.
#[derive(Debug)]
pub(super) struct JobFolder {
    pub(super) files: JobFiles,
    pub(super) record: JobRecord,
}

/// The job of a folder.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct JobRecord {
    /// Name of the container.
    pub(super) container: String,
    /// True for a script.
    pub(super) is_script: bool,
    /// Length of `failures.jsonl` before the job.
    pub(super) failures_from: u64,
    /// Seconds that ranks have to exit after another one succeeded.
    pub(super) exit_timeout_s: Option<u64>,
}

/// What the script in the container recorded.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Exits {
    /// In the order of their ends.
    pub(super) exits: Vec<RankExit>,
    /// A request to stop arrived.
    pub(super) is_stopped: bool,
    /// Some ranks did not end in time after others had succeeded.
    pub(super) is_late: bool,
    /// All ranks have ended.
    pub(super) is_whole: bool,
}

impl JobFolder {
    /// Opens the folder of a handle.
    pub(super) fn open(job: &JobHandle) -> Result<Self, ExecutorError> {
        let unknown = || ExecutorError::UnknownJob { job: job.clone() };
        let dir = job.0.strip_prefix(SCHEME).ok_or_else(unknown)?;
        Self::at(dir.into())?.ok_or_else(unknown)
    }

    /// Returns the folder's job; `None` if it has none.
    pub(super) fn at(dir: PathBuf) -> Result<Option<Self>, ExecutorError> {
        let files = JobFiles::new(dir);
        let Some(text) = files.read(RECORD_FILE)? else { return Ok(None) };
        let path = files.dir().join(RECORD_FILE);
        let record = serde_json::from_str(&text).map_err(|error| failed("read", &path)(error.into()))?;
        Ok(Some(Self { files, record }))
    }

    /// Prepares the folder for a job: moves the logs of an earlier one, and writes the submission's files and its record.
    pub(super) fn prepare(submission: &Submission, record: impl FnOnce(u64) -> JobRecord) -> Result<Self, ExecutorError> {
        let files = JobFiles::new(&submission.dir);
        let stale = [RECORD_FILE, EXITS_FILE, CANCEL_FILE, PIPE_FILE];
        let log = PathBuf::from(super::script::SCRIPT_LOG);
        files.prepare(submission, &stale, [&log].into_iter())?;
        let record = record(files.failures_len());
        files.write(RECORD_FILE, &(serde_json::to_string(&record)? + "\n"))?;
        Ok(Self { files, record })
    }

    /// Forgets a job that did not start.
    pub(super) fn forget(&self) -> Result<(), ExecutorError> {
        let path = self.files.dir().join(RECORD_FILE);
        fs::remove_file(&path).map_err(failed("remove", &path))
    }

    pub(super) fn handle(&self) -> JobHandle {
        JobHandle(format!("{SCHEME}{}", self.files.dir().display()))
    }

    pub(super) fn kind(&self) -> JobKind {
        if self.record.is_script { JobKind::Script } else { JobKind::Ranks }
    }

    /// Records a request to stop, and returns the number of requests.
    pub(super) fn count_request(&self, signal: StopSignal) -> Result<usize, ExecutorError> {
        let mut text = self.files.read(CANCEL_FILE)?.unwrap_or_default();
        text += signal.name();
        text += "\n";
        self.files.write(CANCEL_FILE, &text)?;
        Ok(text.lines().count())
    }

    /// Returns true if a stop was requested.
    pub(super) fn is_cancelled(&self) -> Result<bool, ExecutorError> {
        Ok(self.files.read(CANCEL_FILE)?.is_some())
    }

    /// Reads what the script recorded.
    pub(super) fn exits(&self) -> Result<Exits, ExecutorError> {
        Ok(Exits::parse(&self.files.read(EXITS_FILE)?.unwrap_or_default()))
    }

    /// Returns the output of the script itself.
    pub(super) fn script_log(&self) -> String {
        self.files.read(super::script::SCRIPT_LOG).ok().flatten().unwrap_or_default()
    }
}

impl Exits {
    /// Parses the lines of `container.exits`; the last one may be cut off.
    fn parse(text: &str) -> Self {
        let mut found = Self::default();
        for line in text.lines() {
            let words: Vec<_> = line.split(' ').collect();
            match words.as_slice() {
                ["stop", _] => found.is_stopped = true,
                ["late"] => found.is_late = true,
                ["end"] => found.is_whole = true,
                [rank, code, by_itself] => found.exits.extend(exit(rank, code, by_itself, found.exits.len())),
                _ => {}
            }
        }
        found
    }
}

fn exit(rank: &str, code: &str, by_itself: &str, order: usize) -> Option<RankExit> {
    let code: i32 = code.parse().ok()?;
    Some(RankExit {
        rank: rank.parse().ok()?,
        // The shell's code for a signal is 128 and its number.
        status: ExitStatus::from_raw(if code > 128 { code - 128 } else { code << 8 }),
        // The script knows the order of the exits. Records of ranks have times, and are better.
        unix_ms: u64::MAX / 2 + order as u64,
        by_itself: by_itself == "1",
        stopped: false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_exits_of_a_shell() {
        let found = Exits::parse("1 2 1\nstop TERM\n0 143 0\nlate\nend\n2 x 1\n3");
        let exits: Vec<_> = found
            .exits
            .iter()
            .map(|exit| (exit.rank, exit.status.code(), exit.status.signal(), exit.by_itself))
            .collect();
        assert_eq!(exits, [(1, Some(2), None, true), (0, None, Some(15), false)]);
        assert!(found.is_stopped && found.is_late && found.is_whole);
        assert_eq!(Exits::parse(""), Exits::default());
    }
}
