//! State of a job: that of its container, and what its script recorded.

use neva_schemas::{StopSignal, exit_class};

use super::{
    api::Runtime,
    folder::{Exits, JobFolder},
    inspect::{Container, ContainerState},
};
use crate::{
    background::stop_signal, error::ExecutorError, event::JobStatus, failure::JobFailure, job::JobState, job_files::last_lines,
    submission::JobKind,
};

/// Returns the status of a job.
pub(super) async fn status(runtime: &Runtime, job: &JobFolder) -> Result<JobStatus, ExecutorError> {
    // A finished job needs no runtime, and its container may have been removed.
    let exits = job.exits()?;
    if exits.is_whole {
        return Ok(end(job, &exits, None)?.into());
    }
    let container = runtime.inspect(&job.record.container).await?;
    let state = match container.as_ref().map(|container| container.state) {
        Some(ContainerState::Created) => JobState::Pending,
        Some(ContainerState::Running) => JobState::Running,
        Some(ContainerState::Paused) => {
            return Ok(JobStatus {
                reason: Some("the container is paused".to_owned()),
                ..JobState::Running.into()
            });
        }
        // It may have recorded its end in between.
        Some(ContainerState::Ended) | None => end(job, &job.exits()?, container.as_ref())?,
    };
    Ok(state.into())
}

/// Requests the end of a job; a second request kills it.
pub(super) async fn cancel(runtime: &Runtime, job: &JobFolder, signal: StopSignal) -> Result<(), ExecutorError> {
    if job.exits()?.is_whole {
        return Ok(());
    }
    let name = &job.record.container;
    let state = runtime.inspect(name).await?.map(|container| container.state);
    match (state, job.count_request(signal)?) {
        (None | Some(ContainerState::Ended), _) => Ok(()),
        (Some(ContainerState::Running), 1) => runtime.kill(name, stop_signal(signal).name()).await,
        // A paused container, and one that has not started, cannot handle a signal.
        (Some(ContainerState::Created), _) => runtime.remove(name).await,
        _ => runtime.kill(name, "SIGKILL").await,
    }
}

/// Returns the final state of an ended job.
fn end(job: &JobFolder, exits: &Exits, container: Option<&Container>) -> Result<JobState, ExecutorError> {
    let was_stopped = exits.is_stopped || job.is_cancelled()?;
    // A failure before a request to stop is still a failure.
    if was_stopped && !exits.is_late && exits.exits.iter().all(|exit| exit.status.success() || !exit.by_itself) {
        return Ok(JobState::Cancelled);
    }
    if let Some(container) = container.filter(|container| container.is_out_of_memory) {
        return Ok(JobState::Failed(out_of_memory(exits, container)));
    }
    let files = &job.files;
    let tail = |rank| files.log_tail(rank);
    let late = exits.is_late.then(|| job.record.exit_timeout_s.unwrap_or_default());
    let failure = match job.kind() {
        JobKind::Ranks => JobFailure::first(&exits.exits, &files.failures(job.record.failures_from), tail)
            .or_else(|| JobFailure::from_late_exits(&exits.exits, late?)),
        JobKind::Script => JobFailure::from_script(&exits.exits, tail),
    };
    let failure = match failure {
        Some(failure) => JobFailure {
            log: match job.kind() {
                JobKind::Ranks => failure.rank,
                JobKind::Script => Some(0),
            }
            .map(|rank| files.log(rank)),
            ..failure
        },
        None if exits.is_whole => return Ok(JobState::Succeeded),
        None => lost(job, container),
    };
    Ok(JobState::Failed(failure))
}

/// Returns the failure of a container that reached its memory limit.
fn out_of_memory(exits: &Exits, container: &Container) -> JobFailure {
    let help = "raise `mem_limit` in `executor.additional_kwargs`, or try a smaller `micro_batch_size`";
    JobFailure {
        help: Some(help.to_owned()),
        rank: exits.exits.iter().find(|exit| !exit.status.success()).map(|exit| exit.rank),
        ..JobFailure::for_job(
            exit_class::JOB,
            format!("the container reached its memory limit (exit code {})", container.exit_code),
        )
    }
}

/// Returns the failure of a container that ended, or was removed, before its script recorded the end.
fn lost(job: &JobFolder, container: Option<&Container>) -> JobFailure {
    let name = &job.record.container;
    let message = match container {
        None => format!("the container {name} was removed before the job ended"),
        Some(container) if !container.error.is_empty() => format!("the container did not start: {}", container.error),
        Some(container) if container.exit_code == 137 => format!("the container {name} was killed"),
        Some(container) => format!("the container {name} ended with exit code {} before its ranks", container.exit_code),
    };
    JobFailure {
        help: container.map(|_| format!("`docker logs {name}` and logs/container.log may tell why")),
        tail: last_lines(&job.script_log()),
        ..JobFailure::for_job(exit_class::CLUSTER, message)
    }
}
