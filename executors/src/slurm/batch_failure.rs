//! Why a job in the state FAILED failed: a rank, the batch script, or Slurm. Pure.

use neva_schemas::{ExitClass, exit_class};

use super::{
    evidence::{BATCH_LOG, Evidence},
    handle::SlurmJob,
    queue::QueueRow,
};
use crate::{exit::signal_name, failure::JobFailure, local::rank_log, submission::JobKind};

/// Wait status of a batch script that Slurm could not start: the number of an error of its own.
const LAUNCH_ERROR: i32 = 53;

const OUT_OF_MEMORY: &str = "it exceeded the memory of the job";
pub(super) const MEMORY_HELP: &str = "request more with the executor's `mem`, or try a smaller `micro_batch_size`";

/// Returns the failure of a job in the state FAILED.
pub(super) fn failure(job: &SlurmJob, row: &QueueRow, evidence: &Evidence) -> JobFailure {
    // Slurm ends the ranks of a batch script that was killed, and srun then reports them.
    let is_killed = row.signal != 0 && evidence.records.iter().all(|record| record.peer_failure);
    if let Some(failure) = rank_failure(evidence, |_| evidence.tail.clone()).filter(|_| !is_killed) {
        let rank = match evidence.kind {
            JobKind::Ranks => failure.rank,
            JobKind::Script => Some(0),
        };
        // A rank that tells why it failed did not fail of that.
        let is_oom = evidence.output.is_out_of_memory && !evidence.records.iter().any(|record| Some(record.rank) == failure.rank);
        let failure = match (is_oom, not_started(&failure.tail)) {
            (true, _) => JobFailure {
                chain: vec![OUT_OF_MEMORY.to_owned()],
                help: Some(MEMORY_HELP.to_owned()),
                ..failure
            },
            (false, Some(problem)) => JobFailure {
                class: exit_class::CLUSTER,
                chain: vec![problem],
                help: Some(
                    "the program must be on a file system that the nodes share, or be named with the executor's `rank_program`".into(),
                ),
                ..failure
            },
            (false, None) => failure,
        };
        return JobFailure {
            log: rank.map(|rank| job.file(rank_log(rank))),
            ..failure
        };
    }
    let (class, message, help) = batch_failure(job, row, evidence);
    JobFailure {
        help: help.map(str::to_owned),
        log: evidence.output.has_started.then(|| job.file(BATCH_LOG)),
        tail: evidence.output.tail.clone(),
        ..JobFailure::for_job(class, message)
    }
}

/// Returns the failure of the rank that failed first.
pub(super) fn rank_failure(evidence: &Evidence, tail: impl Fn(u32) -> Vec<String>) -> Option<JobFailure> {
    let Evidence { output, records, kind, .. } = evidence;
    match kind {
        JobKind::Ranks => JobFailure::first(&output.exits, records, tail),
        JobKind::Script => JobFailure::from_script(&output.exits, tail),
    }
}

/// Returns the message of Slurm or of the shell if the program of a rank could not be started.
fn not_started(tail: &[String]) -> Option<String> {
    let words = tail.iter().rev().find_map(|line| {
        if line.starts_with("slurmstepd") {
            return Some(line.split_once("execve(): ")?.1);
        }
        // `rank: 2: /opt/neva-rank: not found`; the shell that starts a rank has this name.
        let (_, words) = line.strip_prefix("rank: ")?.split_once(": ")?;
        let is_missing = ["not found", "No such file or directory", "Permission denied"];
        is_missing.iter().any(|end| words.ends_with(end)).then_some(words)
    })?;
    Some(format!("the node could not start it: {words}"))
}

/// Returns the failure of a batch script none of whose ranks failed.
fn batch_failure(job: &SlurmJob, row: &QueueRow, evidence: &Evidence) -> (ExitClass, String, Option<&'static str>) {
    if !evidence.output.has_started && (row.signal == LAUNCH_ERROR || row.reason == "JobLaunchFailure") {
        let node = row.nodes.first().map_or("its node", String::as_str);
        return (
            exit_class::CLUSTER,
            format!("{node} could not start the job: it cannot write {}", job.file(BATCH_LOG).display()),
            Some("name a folder with `--set dir=...` that is on a file system which the nodes share, and which you may write there"),
        );
    }
    if evidence.output.is_out_of_memory {
        return (exit_class::JOB, OUT_OF_MEMORY.to_owned(), Some(MEMORY_HELP));
    }
    if let Some(error) = evidence.output.errors.last() {
        return (exit_class::CLUSTER, format!("srun: {error}"), None);
    }
    match (row.signal, row.code) {
        (0, 0) => (
            exit_class::CLUSTER,
            format!("Slurm ended the job ({})", row.reason),
            (!evidence.output.has_started).then_some("start it again: no other job was submitted for it"),
        ),
        (0, code @ (126 | 127)) => (
            exit_class::CLUSTER,
            format!("the batch script ended with exit code {code}: a program was not found"),
            Some("see its last lines; `setup_lines` or `modules` of the executor can make it known"),
        ),
        (0, code) => (
            ExitClass::try_from(code)
                .ok()
                .filter(|class| (exit_class::JOB..=exit_class::BUG).contains(class) && evidence.output.has_started)
                .unwrap_or(exit_class::CLUSTER),
            format!("the batch script ended with exit code {code}"),
            None,
        ),
        (signal, _) => (
            exit_class::JOB,
            format!("the batch script was killed by {}", signal_name(signal)),
            (signal == 9).then_some("a user killed it, or Slurm did because the job exceeded its memory: then raise the executor's `mem`"),
        ),
    }
}
