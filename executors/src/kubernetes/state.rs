//! State of a job from its Job and its pods. Pure.

use std::{collections::BTreeMap, path::Path};

use k8s_openapi::api::batch::v1::{Job, JobCondition};
use neva_schemas::{ExitClass, exit_class};

use super::{
    names::{DIR, RANKS, STOP, annotation},
    pod::{PodEnd, PodPhase, PodState, newest},
    record::JobRecord,
};
use crate::{event::JobStatus, failure::JobFailure, job::JobState, local::rank_log, submission::JobKind};

/// Last lines of the logs of ranks, by rank.
pub(super) type Tails = BTreeMap<u32, Vec<String>>;

/// Returns the ranks of each pod; 1 for a script.
pub(super) fn ranks_per_pod(job: &Job) -> u32 {
    annotation(job, RANKS).and_then(|text| text.parse().ok()).unwrap_or(1).max(1)
}

fn kind(job: &Job) -> JobKind {
    match annotation(job, RANKS) {
        Some("0") => JobKind::Script,
        _ => JobKind::Ranks,
    }
}

/// Returns the number of pods of the Job.
pub(super) fn pods_wanted(job: &Job) -> usize {
    let pods = job.spec.as_ref().and_then(|spec| spec.completions).unwrap_or(1);
    usize::try_from(pods).unwrap_or(1)
}

/// Returns true if the Job is suspended, by a cancel request or by Kueue.
pub(super) fn is_suspended(job: &Job) -> bool {
    job.spec.as_ref().and_then(|spec| spec.suspend).unwrap_or(false)
}

fn condition<'a>(job: &'a Job, kind: &str) -> Option<&'a JobCondition> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    conditions
        .iter()
        .find(|condition| condition.type_ == kind && condition.status == "True")
}

/// Returns true if the Job has ended or was cancelled, so that it starts no pod any more.
pub(super) fn has_ended(job: &Job) -> bool {
    let is_active = job.status.as_ref().and_then(|status| status.active).unwrap_or(0) > 0;
    let is_cancelled = annotation(job, STOP).is_some() && is_suspended(job) && !is_active;
    is_cancelled || condition(job, "Complete").is_some() || condition(job, "Failed").is_some()
}

/// Returns the status of a job. `waiting` is the reason why it does not run, `tails` the ends of logs of ranks.
pub(super) fn status(job: &Job, pods: &[PodState], waiting: Option<String>, tails: &Tails) -> JobStatus {
    let newest = newest(pods);
    let mut nodes: Vec<String> = newest.iter().filter_map(|pod| pod.node.clone()).collect();
    nodes.sort();
    nodes.dedup();
    let state = if has_ended(job) {
        ended(job, pods, tails)
    } else if newest.len() < pods_wanted(job) || newest.iter().any(|pod| pod.phase == PodPhase::Waiting) {
        JobState::Pending
    } else {
        JobState::Running
    };
    let restarts = pods.len().saturating_sub(newest.len());
    let most = newest
        .iter()
        .map(|pod| pods.iter().filter(|other| other.index == pod.index).count());
    JobStatus {
        reason: waiting.filter(|_| state == JobState::Pending && annotation(job, STOP).is_none()),
        nodes,
        estimated_start_unix_ms: None,
        restarts: u32::try_from(if restarts == 0 { 0 } else { most.max().unwrap_or(1) - 1 }).unwrap_or(u32::MAX),
        state,
    }
}

/// Returns the status of a job that the cluster does not have any more.
pub(super) fn gone() -> JobStatus {
    JobState::Failed(JobFailure {
        help: Some("its files are still on its volume; start it again to resume from its last checkpoint".to_owned()),
        ..JobFailure::for_job(
            exit_class::CLUSTER,
            "the job is not in the cluster any more: it was deleted, by hand or after `ttl_seconds_after_finished`".to_owned(),
        )
    })
    .into()
}

fn ended(job: &Job, pods: &[PodState], tails: &Tails) -> JobState {
    // Pods that are gone tell nothing.
    if last_ends(pods).is_empty()
        && let Some(record) = JobRecord::of(job)
    {
        return record.state;
    }
    let is_cancelled = annotation(job, STOP).is_some();
    if condition(job, "Complete").is_some() || (is_cancelled && condition(job, "Failed").is_none()) {
        return if is_cancelled { JobState::Cancelled } else { JobState::Succeeded };
    }
    match failure(job, pods, tails) {
        // The request ended what still ran. A failure before it is still a failure.
        failure if is_cancelled && failure.rank.is_none() && kind(job) == JobKind::Ranks => JobState::Cancelled,
        failure => JobState::Failed(failure),
    }
}

/// Returns the ends of the pods that ran together last.
fn last_ends(pods: &[PodState]) -> Vec<&PodEnd> {
    let ends: Vec<_> = pods.iter().filter_map(PodState::end).collect();
    let started = ends.iter().map(|end| end.started).max().unwrap_or(0);
    let together = |end: &&PodEnd| end.code.is_none() || end.finished >= started;
    ends.into_iter().filter(together).collect()
}

/// Returns the failure of a Job that failed.
fn failure(job: &Job, pods: &[PodState], tails: &Tails) -> JobFailure {
    let condition = condition(job, "Failed");
    let reason = condition.and_then(|condition| condition.reason.as_deref()).unwrap_or_default();
    let ends = last_ends(pods);
    if reason == "DeadlineExceeded" {
        return failed(
            exit_class::JOB,
            "Kubernetes ended the job at its time limit".to_owned(),
            "raise `executor.active_deadline_seconds`; started again, it resumes from its last checkpoint",
        );
    }
    if let Some((class, words)) = ends.iter().find_map(|end| end.message.as_ref()?.failure.clone()) {
        return JobFailure::for_job(class, words);
    }
    let messages: Vec<_> = ends.iter().filter_map(|end| end.message.as_ref()).collect();
    let exits: Vec<_> = messages.iter().flat_map(|message| message.exits.clone()).collect();
    let records: Vec<_> = messages.iter().flat_map(|message| message.records.clone()).collect();
    let tail = |rank: u32| tails.get(&rank).cloned().unwrap_or_default();
    let of_ranks = match kind(job) {
        JobKind::Ranks => JobFailure::first(&exits, &records, tail),
        JobKind::Script => JobFailure::from_script(&exits, tail),
    };
    let is_peer = records.iter().all(|record| record.peer_failure) && exits.iter().all(|exit| exit.status.code() == Some(1));
    let from_outside = ends.iter().find_map(|end| from_outside(end));
    match (of_ranks, from_outside) {
        // The ranks of other pods only saw that their peers were gone.
        (Some(_), Some(failure)) if is_peer => failure,
        (Some(failure), _) => {
            let rank = match kind(job) {
                JobKind::Ranks => failure.rank,
                JobKind::Script => Some(0),
            };
            let dir = annotation(job, DIR).unwrap_or_default();
            JobFailure {
                log: rank.map(|rank| Path::new(dir).join(rank_log(rank))),
                ..failure
            }
        }
        (None, Some(failure)) => failure,
        (None, None) => {
            let words = condition.and_then(|condition| condition.message.as_deref()).unwrap_or_default();
            failed(
                exit_class::CLUSTER,
                format!("Kubernetes ended the job: {reason}: {words}"),
                "see `kubectl describe job` for its events",
            )
        }
    }
}

/// Returns the failure of a pod that was ended from outside, or whose container did not start.
fn from_outside(end: &PodEnd) -> Option<JobFailure> {
    let PodEnd {
        reason, words, message, ..
    } = end;
    Some(match reason.as_str() {
        "OOMKilled" => failed(
            exit_class::JOB,
            "a pod exceeded its memory limit".to_owned(),
            "raise `memory` in the executor's `limits`, or try a smaller `micro_batch_size`",
        ),
        "StartError" | "ContainerCannotRun" => failed(
            exit_class::CLUSTER,
            format!("a pod could not start: {words}"),
            "the image needs `/bin/sh` and the tools of coreutils or busybox",
        ),
        "Evicted"
        | "NodeLost"
        | "Shutdown"
        | "NodeShutdown"
        | "Terminated"
        | "UnexpectedAdmissionError"
        | "OutOfcpu"
        | "OutOfmemory"
        | "Preempting"
        | "Preempted"
        | "NodeAffinity" => failed(
            exit_class::CLUSTER,
            format!("a node ended a pod: {reason}: {words}"),
            "started again, it resumes from its last checkpoint",
        ),
        "Error" if message.is_none() => failed(
            exit_class::CLUSTER,
            format!(
                "a pod ended with exit code {} and left no message: {words}",
                end.code.unwrap_or_default()
            ),
            "see its output with `kubectl logs`",
        ),
        _ => return None,
    })
}

fn failed(class: ExitClass, message: String, help: &str) -> JobFailure {
    JobFailure {
        help: Some(help.to_owned()),
        ..JobFailure::for_job(class, message.trim_end_matches([':', ' ']).to_owned())
    }
}
