//! What a job left in its folder that tells how it ended.

use std::path::PathBuf;

use neva_schemas::{FAILURES_FILE, RankFailure};

use super::{exits::BatchOutput, files::Part, handle::SlurmJob};
use crate::{failure::TAIL_LINES, local::rank_log, submission::JobKind};

/// File with the number of the folder's job, its kind and its key.
pub(super) const JOB_FILE: &str = "slurm.job";
/// File of the batch script with its exit code.
const STATUS_FILE: &str = "slurm.status";
/// File of requests to stop.
const CANCEL_FILE: &str = "cancel";
/// Output of the batch script.
pub(super) const BATCH_LOG: &str = "logs/slurm.log";

/// Maximum number of bytes that are read of a log's end, and of the failure records.
const TAIL_BYTES: u64 = 64 << 10;
const RECORDS_BYTES: u64 = 1 << 20;

/// Files of an ended job.
#[derive(Debug, Default)]
pub(super) struct Evidence {
    /// The folder holds this job, and not a later one or none.
    pub(super) is_own: bool,
    /// Kind of the job's processes.
    pub(super) kind: JobKind,
    /// A stop was requested.
    pub(super) is_cancelled: bool,
    /// Requeues and exit code, if the batch script recorded its end.
    pub(super) status: Option<(u32, i32)>,
    /// Output of the batch script.
    pub(super) output: BatchOutput,
    /// Records of ranks that failed in the latest start.
    pub(super) records: Vec<RankFailure>,
    /// Last lines of the log of [`Self::silent_rank`].
    pub(super) tail: Vec<String>,
}

impl Evidence {
    /// Returns the files that are read, in the order of [`Self::new`].
    pub(super) fn requests(job: &SlurmJob) -> [(Part, PathBuf); 5] {
        [
            (Part::From(0, 1000), job.file(JOB_FILE)),
            (Part::From(0, 1000), job.file(STATUS_FILE)),
            (Part::From(0, 10_000), job.file(CANCEL_FILE)),
            (Part::End(TAIL_BYTES), job.file(BATCH_LOG)),
            (Part::From(0, RECORDS_BYTES), job.file(FAILURES_FILE)),
        ]
    }

    /// Reads the files' texts.
    pub(super) fn new(job: &SlurmJob, [own, status, cancel, log, records]: [&[u8]; 5]) -> Self {
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        let own = text(own);
        let mut own = own.split_whitespace();
        let is_own = own.next().is_some_and(|id| id == job.id || id == job.base_id());
        let kind = match own.next() {
            Some("script") => JobKind::Script,
            _ => JobKind::Ranks,
        };
        if !is_own {
            return Self { kind, ..Self::default() };
        }
        let output = BatchOutput::parse(&text(log), TAIL_LINES);
        let records = records.get(output.failures_from..).unwrap_or_default();
        // An incomplete record of a dying rank is skipped; one that follows on the same line is read.
        let record = |line: &str| line.match_indices('{').find_map(|(at, _)| serde_json::from_str(&line[at..]).ok());
        let requested = |line: &str| [&job.id, job.base_id()].contains(&line.split_whitespace().next().unwrap_or_default());
        Self {
            is_own,
            kind,
            is_cancelled: text(cancel).lines().any(requested),
            status: status_line(&text(status), job.base_id()),
            records: text(records).lines().filter_map(record).collect(),
            output,
            tail: Vec::new(),
        }
    }

    /// Returns the request for the end of a rank's log.
    pub(super) fn tail_request(job: &SlurmJob, rank: u32) -> (Part, PathBuf) {
        (Part::End(TAIL_BYTES), job.file(rank_log(rank)))
    }

    /// Sets the end of the log of [`Self::silent_rank`].
    pub(super) fn set_tail(&mut self, bytes: &[u8]) {
        let text = String::from_utf8_lossy(bytes);
        let lines: Vec<&str> = text.lines().collect();
        let last = &lines[lines.len().saturating_sub(TAIL_LINES)..];
        self.tail = last.iter().map(|line| (*line).to_owned()).collect();
    }
}

/// Parses `JOBID RESTARTS CODE` if it is that of the job `id`.
fn status_line(text: &str, id: &str) -> Option<(u32, i32)> {
    let mut words = text.split_whitespace();
    if words.next() != Some(id) {
        return None;
    }
    Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
}
