//! The job's folder.
//!
//! | file | content |
//! |---|---|
//! | `pbs.job` | the job's number and its kind |
//! | `pbs.before` | the length of `failures.jsonl` before the job |
//! | `exits` | exit codes of the ranks, by the batch script |
//! | `cancel` | a byte for each request to stop |

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::ExitStatus,
};

use neva_executors::{ExecutorError, JobFailure, JobState, LogChunk, RankExit, Submission, local::rank_log};
use neva_schemas::{FAILURES_FILE, REPORT_FILE, RankFailure, exit_class};

const JOB: &str = "pbs.job";
const BEFORE: &str = "pbs.before";
const EXITS: &str = "exits";
const CANCEL: &str = "cancel";
const LOGS: &str = "logs";
/// Maximum number of bytes of a log that are read at once.
const CHUNK: u64 = 64 << 10;

#[derive(Debug)]
pub(super) struct PbsFolder {
    dir: PathBuf,
}

/// Returns the error of a failed access to a file.
fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ExecutorError {
    let path = path.to_owned();
    move |source| ExecutorError::File { action, path, source }
}

impl PbsFolder {
    /// Returns the folder of a job; `None` if no job was submitted in `dir`.
    pub(super) fn open(dir: &Path) -> Option<Self> {
        dir.join(JOB).is_file().then(|| Self { dir: dir.to_owned() })
    }

    /// Prepares the folder for a job: moves the logs of an earlier one, and writes the submission's files.
    pub(super) fn prepare(submission: &Submission) -> Result<Self, ExecutorError> {
        let dir = submission.dir.clone();
        let logs = dir.join(LOGS);
        fs::create_dir_all(&logs).map_err(failed("create", &logs))?;
        for stale in [REPORT_FILE, EXITS, CANCEL] {
            match fs::remove_file(dir.join(stale)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("remove", &dir.join(stale))(error)),
                _ => {}
            }
        }
        let attempt = (1..)
            .map(|number| logs.join(format!("attempt-{number}")))
            .find(|path| !path.exists());
        for entry in fs::read_dir(&logs).map_err(failed("read", &logs))?.flatten() {
            if let Some(attempt) = attempt.as_ref().filter(|_| entry.path().is_file()) {
                fs::create_dir_all(attempt).map_err(failed("create", attempt))?;
                fs::rename(entry.path(), attempt.join(entry.file_name())).map_err(failed("move", &entry.path()))?;
            }
        }
        // Records of earlier jobs stay in the file.
        let before = fs::metadata(dir.join(FAILURES_FILE)).map_or(0, |metadata| metadata.len());
        fs::write(dir.join(BEFORE), before.to_string()).map_err(failed("write", &dir.join(BEFORE)))?;
        for (file, text) in &submission.files {
            fs::write(dir.join(file), text).map_err(failed("write", &dir.join(file)))?;
        }
        Ok(Self { dir })
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(self.dir.join(file)).unwrap_or_default()
    }

    /// Records the number of the folder's job.
    pub(super) fn set_number(&self, number: &str, is_script: bool) -> Result<(), ExecutorError> {
        let (path, part) = (self.dir.join(JOB), self.dir.join("pbs.job.part"));
        let kind = if is_script { "script" } else { "ranks" };
        let text = format!("{number} {kind}\n");
        fs::write(&part, text)
            .and_then(|()| fs::rename(&part, &path))
            .map_err(failed("write", &path))
    }

    /// Returns the number of the folder's job.
    pub(super) fn number(&self) -> Option<String> {
        self.read(JOB).split_whitespace().next().map(str::to_owned)
    }

    /// Counts a request to stop, and returns the number of requests.
    pub(super) fn count_request(&self) -> Result<u64, ExecutorError> {
        let path = self.dir.join(CANCEL);
        let file = OpenOptions::new().create(true).append(true).open(&path);
        let count = file.and_then(|mut file| file.write_all(b"x").and_then(|()| file.metadata()));
        count.map(|metadata| metadata.len()).map_err(failed("write", &path))
    }

    /// Returns the final state of an ended job.
    pub(super) fn end(&self) -> Result<JobState, ExecutorError> {
        if self.dir.join(CANCEL).exists() {
            return Ok(JobState::Cancelled);
        }
        let exits: Vec<RankExit> = self.read(EXITS).lines().filter_map(exit).collect();
        let before: usize = self.read(BEFORE).parse().unwrap_or(0);
        let records = self.read(FAILURES_FILE);
        let records: Vec<RankFailure> = records
            .get(before..)
            .unwrap_or_default()
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect();
        if exits.is_empty() {
            return Ok(JobState::Failed(killed()));
        }
        if exits.iter().all(|exit| exit.status.success()) {
            return Ok(JobState::Succeeded);
        }
        let tail = |rank: u32| {
            let log = self.read(&rank_log(rank).display().to_string());
            let lines: Vec<_> = log.lines().map(str::to_owned).collect();
            lines[lines.len().saturating_sub(10)..].to_vec()
        };
        let mut failure = JobFailure::first(&exits, &records, tail).unwrap_or_else(killed);
        // Exit codes of a script have no meaning; that of a shell that found no program does.
        let is_script = self.read(JOB).split_whitespace().nth(1) == Some("script");
        if is_script && failure.class != exit_class::CLUSTER {
            failure.class = exit_class::JOB;
        }
        Ok(JobState::Failed(failure))
    }

    /// Returns a chunk of a rank's output.
    pub(super) fn logs(&self, rank: u32, offset: u64) -> Result<LogChunk, ExecutorError> {
        let path = self.dir.join(rank_log(rank));
        let mut bytes = Vec::new();
        match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed("read", &path)(error)),
            Ok(mut file) => {
                let read = file
                    .seek(SeekFrom::Start(offset))
                    .and_then(|_| file.take(CHUNK).read_to_end(&mut bytes));
                read.map_err(failed("read", &path))?;
            }
        }
        let next = offset + bytes.len() as u64;
        Ok(LogChunk { bytes, next })
    }
}

/// Returns the failure of a job that ended before its ranks: PBS killed it, or a node was lost.
fn killed() -> JobFailure {
    JobFailure {
        class: exit_class::CLUSTER,
        rank: None,
        step: None,
        chain: vec!["the job ended before its ranks did".to_owned()],
        help: Some("`qstat -x -f` and logs/pbs.log may tell why: a time limit, the memory, a lost node".to_owned()),
        others: 0,
        log: None,
        tail: Vec::new(),
    }
}

/// Parses `RANK CODE MILLISECONDS BY_ITSELF`.
fn exit(line: &str) -> Option<RankExit> {
    let mut words = line.split(' ');
    let rank = words.next()?.parse().ok()?;
    let code: i32 = words.next()?.parse().ok()?;
    Some(RankExit {
        rank,
        // The shell's code for a signal is 128 and its number.
        status: ExitStatus::from_raw(if code > 128 { code - 128 } else { code << 8 }),
        unix_ms: words.next()?.parse().ok()?,
        by_itself: words.next()? == "1",
        stopped: false,
    })
}
