//! State of a job from what Slurm reports and what the job left in its folder. Pure.

use std::cell::Cell;

use neva_schemas::{ExitClass, exit_class};

use super::{
    evidence::{BATCH_LOG, Evidence},
    handle::SlurmJob,
    queue::QueueRow,
};
use crate::{event::JobStatus, exit::signal_name, failure::JobFailure, job::JobState, local::rank_log, submission::JobKind};

/// Phase of a job by Slurm's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// It waits.
    Pending,
    /// It has nodes.
    Running,
    /// It has ended.
    Ended,
}

/// Wait status of a batch script that Slurm could not start: the number of an error of its own.
const LAUNCH_ERROR: i32 = 53;

/// Returns the phase of a state of Slurm. `COMPLETING` is not an end: the exit code is not known yet.
pub(super) fn phase(state: &str) -> Phase {
    match state {
        "PENDING" | "CONFIGURING" | "REQUEUED" | "REQUEUE_HOLD" | "REQUEUE_FED" | "SPECIAL_EXIT" | "RESV_DEL_HOLD" => Phase::Pending,
        "RUNNING" | "COMPLETING" | "SUSPENDED" | "STOPPED" | "SIGNALING" | "STAGE_OUT" | "RESIZING" => Phase::Running,
        _ => Phase::Ended,
    }
}

/// Returns the rank whose log tells why the job failed, because the rank left no record.
pub(super) fn silent_rank(row: &QueueRow, evidence: &Evidence) -> Option<u32> {
    if row.state != "FAILED" || evidence.is_cancelled {
        return None;
    }
    let asked = Cell::new(None);
    let _ = rank_failure(evidence, |rank| {
        asked.set(Some(rank));
        Vec::new()
    });
    asked.get()
}

/// Returns the status of a job; `evidence` is needed if it has ended.
pub(super) fn status(job: &SlurmJob, row: &QueueRow, evidence: &Evidence) -> JobStatus {
    let state = match (phase(&row.state), own_code(job, row, evidence)) {
        (Phase::Pending, _) => JobState::Pending,
        // A failed task may start again with its group.
        (Phase::Running, Some(0)) => JobState::Succeeded,
        (Phase::Running, _) => JobState::Running,
        (Phase::Ended, Some(0)) if !evidence.is_cancelled => JobState::Succeeded,
        (Phase::Ended, Some(code)) => {
            let state = "FAILED".to_owned();
            let own = QueueRow {
                state,
                code,
                signal: 0,
                ..row.clone()
            };
            end(job, &own, evidence)
        }
        (Phase::Ended, None) => end(job, row, evidence),
    };
    let is_pending = state == JobState::Pending;
    JobStatus {
        reason: (!row.reason.is_empty() && row.reason != "NonZeroExitCode").then(|| row.reason.clone()),
        nodes: row.nodes.clone(),
        estimated_start_unix_ms: row.start.filter(|_| is_pending).map(|start| start.saturating_mul(1000)),
        restarts: row.restarts,
        state,
    }
}

/// Returns the exit code that a task of a group recorded in the job's latest start.
fn own_code(job: &SlurmJob, row: &QueueRow, evidence: &Evidence) -> Option<i32> {
    let (restarts, code) = evidence.status.filter(|_| job.is_in_group())?;
    (restarts == row.restarts).then_some(code)
}

/// Returns the state of a job that ended, or whose end only its own status file tells.
fn end(job: &SlurmJob, row: &QueueRow, evidence: &Evidence) -> JobState {
    if evidence.is_cancelled {
        return JobState::Cancelled;
    }
    let node = || row.nodes.first().map_or_else(|| "a node".to_owned(), |node| format!("node {node}"));
    let failed = |class, message: String, help: Option<&str>| {
        JobState::Failed(JobFailure {
            help: help.map(str::to_owned),
            ..JobFailure::for_job(class, message)
        })
    };
    match row.state.as_str() {
        "COMPLETED" => JobState::Succeeded,
        "CANCELLED" => JobState::Cancelled,
        "FAILED" => JobState::Failed(failure(job, row, evidence)),
        "TIMEOUT" => failed(
            exit_class::JOB,
            "Slurm ended the job at its time limit".to_owned(),
            Some("raise the executor's `time`, or its `signal_s`, so that the ranks can save before the limit and the job can requeue"),
        ),
        "DEADLINE" => failed(exit_class::JOB, "Slurm ended the job at its deadline".to_owned(), None),
        "OUT_OF_MEMORY" => failed(
            exit_class::JOB,
            "the job exceeded the memory that it requested".to_owned(),
            Some(MEMORY_HELP),
        ),
        "NODE_FAIL" => failed(
            exit_class::CLUSTER,
            format!("{} failed while the job ran", node()),
            Some("start it again, it resumes from the last checkpoint; Slurm requeues such jobs itself unless `requeue: false` forbids it"),
        ),
        "BOOT_FAIL" => failed(exit_class::CLUSTER, format!("{} did not boot", node()), None),
        "PREEMPTED" => failed(
            exit_class::CLUSTER,
            "the job was preempted by one of higher priority".to_owned(),
            Some("start it again, it resumes from the last checkpoint; another partition or QOS may requeue preempted jobs"),
        ),
        "REVOKED" => failed(
            exit_class::CLUSTER,
            "the job was taken over by another cluster of the federation".to_owned(),
            None,
        ),
        other => failed(
            exit_class::CLUSTER,
            format!("the job ended in the state {other}, which this program does not know"),
            None,
        ),
    }
}

const OUT_OF_MEMORY: &str = "it exceeded the memory of the job";
const MEMORY_HELP: &str = "request more with the executor's `mem`, or try a smaller `micro_batch_size`";

/// Returns the failure of a job in the state FAILED.
fn failure(job: &SlurmJob, row: &QueueRow, evidence: &Evidence) -> JobFailure {
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

fn rank_failure(evidence: &Evidence, tail: impl Fn(u32) -> Vec<String>) -> Option<JobFailure> {
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

/// Returns the row of a job that Slurm has forgotten, from the record of its batch script.
pub(super) fn forgotten(job: &SlurmJob, evidence: &Evidence) -> QueueRow {
    let row = |state: &str, restarts, code| QueueRow {
        id: job.id.clone(),
        state: state.to_owned(),
        reason: String::new(),
        restarts,
        code,
        signal: 0,
        start: None,
        nodes: Vec::new(),
    };
    match evidence.status {
        Some((restarts, 0)) => row("COMPLETED", restarts, 0),
        Some((restarts, code)) => row("FAILED", restarts, code),
        None if !evidence.output.has_started => QueueRow {
            reason: "it no longer knows it, and the job has not started: its controller lost it".into(),
            ..row("FAILED", 0, 0)
        },
        None => QueueRow {
            reason: "it no longer knows it, and no slurm.status was left: killed, or a node was lost".into(),
            ..row("FAILED", 0, 0)
        },
    }
}
