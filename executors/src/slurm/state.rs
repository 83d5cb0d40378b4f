//! State of a job from what Slurm reports and what the job left in its folder. Pure.

use std::cell::Cell;

use neva_schemas::exit_class;

use super::{
    batch_failure::{MEMORY_HELP, failure, rank_failure},
    evidence::Evidence,
    handle::SlurmJob,
    queue::QueueRow,
};
use crate::{event::JobStatus, failure::JobFailure, job::JobState};

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
        (Phase::Running, Some(0)) if !evidence.is_cancelled => JobState::Succeeded,
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
    let reason = match own_code(job, row, evidence) {
        Some(code) if state == JobState::Running && code != 0 => {
            Some(format!("it ended with exit code {code}; the other tasks of its group still run"))
        }
        _ => (!row.reason.is_empty() && row.reason != "NonZeroExitCode").then(|| row.reason.clone()),
    };
    JobStatus {
        reason,
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
