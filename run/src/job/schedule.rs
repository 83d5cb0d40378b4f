//! Sentences about a job that a cluster schedules: what it waits for, where it runs.

use std::fmt::Write as _;

use jiff::{Timestamp, tz::TimeZone};
use neva_executors::{JobHandle, JobState, JobStatus, kubernetes::job_name, slurm::job_number};

/// Maximum number of nodes that are named.
const SHOWN_NODES: usize = 4;

/// Returns a sentence about a submission; `None` for a job on this machine.
pub(crate) fn submitted(job: &JobHandle) -> Option<String> {
    Some(format!("submitted as job {}", name(job)?))
}

/// Returns the number of a job of Slurm, or the name of one of Kubernetes.
fn name(job: &JobHandle) -> Option<String> {
    job_number(job).or_else(|| job_name(job))
}

/// Returns a sentence about the status of a job; `None` for a job on this machine and one that has ended.
pub(crate) fn status(job: &JobHandle, status: &JobStatus) -> Option<String> {
    let number = name(job)?;
    let JobStatus {
        state,
        reason,
        nodes,
        estimated_start_unix_ms,
        restarts,
    } = status;
    let requeued = match restarts {
        0 => "",
        1 => " was requeued and",
        _ => " was requeued again and",
    };
    match state {
        JobState::Pending => {
            let mut text = format!("job {number}{requeued} waits");
            if let Some(reason) = reason {
                let _ = write!(text, " for {reason}");
                if let Some(words) = explain(reason) {
                    let _ = write!(text, " ({words})");
                }
            }
            if let Some(start) = estimated_start_unix_ms.and_then(time) {
                let _ = write!(text, ", estimated start {start}");
            }
            Some(text)
        }
        JobState::Running => {
            let shown = nodes.iter().take(SHOWN_NODES).cloned().collect::<Vec<_>>().join(", ");
            let more = nodes.len().saturating_sub(SHOWN_NODES);
            let mut text = match (nodes.len(), more) {
                (0, _) => format!("job {number}{requeued} runs"),
                (_, 0) => format!("job {number}{requeued} runs on {shown}"),
                (_, more) => format!("job {number}{requeued} runs on {shown} and {more} more nodes"),
            };
            if let Some(reason) = reason {
                let _ = write!(text, ": {reason}");
            }
            Some(text)
        }
        JobState::Succeeded | JobState::Failed(_) | JobState::Cancelled => None,
    }
}

/// Returns what a reason of Slurm means; `None` for one that needs no words.
fn explain(reason: &str) -> Option<&'static str> {
    Some(match reason {
        "Resources" => "the nodes are busy",
        "Priority" => "jobs of higher priority come first",
        "Dependency" => "other jobs have to end first",
        "BeginTime" => "its earliest start has not come yet",
        "DependencyNeverSatisfied" => "a job that it depends on did not end as required, so it never starts: cancel it",
        "PartitionNodeLimit" => "the partition has fewer nodes than it needs, so it never starts: cancel it",
        "PartitionTimeLimit" => "its `time` is over the partition's limit, so it never starts: cancel it",
        "InvalidQOS" => "its QOS does not exist any more",
        "InvalidAccount" => "its account does not exist any more",
        "JobHeldUser" => "it is held: `scontrol release` lets it start",
        "JobHeldAdmin" => "an administrator holds it",
        "job_requeued_in_held_state" => "it was requeued and is held: `scontrol release` lets it start",
        "launch_failed_requeued_held" => "it could not be started and is held: `scontrol release` tries again",
        "PartitionDown" | "PartitionInactive" => "the partition takes no jobs at present",
        reason if reason.starts_with("ReqNodeNotAvail") => "nodes that it needs are down or reserved",
        reason if reason.starts_with("QOS") || reason.starts_with("Assoc") => "a limit of your account or QOS",
        _ => return None,
    })
}

/// Returns the local time of day, with the date if it is another day.
fn time(unix_ms: u64) -> Option<String> {
    let at = Timestamp::from_millisecond(i64::try_from(unix_ms).ok()?)
        .ok()?
        .to_zoned_datetime(TimeZone::system());
    let format = if at.date() == crate::environment::now().date() {
        "%H:%M:%S"
    } else {
        "%Y-%m-%d %H:%M"
    };
    Some(at.strftime(format).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_say_what_a_job_waits_for_and_where_it_runs() {
        let job = JobHandle("slurm:///12/home/me/run".into());
        let of = |change: &dyn Fn(&mut JobStatus)| {
            let mut status = JobStatus::from(JobState::Pending);
            change(&mut status);
            super::status(&job, &status).unwrap()
        };
        assert_eq!(submitted(&job).unwrap(), "submitted as job 12");
        let kubernetes = JobHandle("kubernetes://training/neva-tiny-629509fc/0b1d/runs/a".into());
        assert_eq!(submitted(&kubernetes).unwrap(), "submitted as job neva-tiny-629509fc");
        assert_eq!(of(&|_| {}), "job 12 waits");
        assert_eq!(
            of(&|status| {
                status.reason = Some("Resources".into());
                status.estimated_start_unix_ms = Some(4_000_000_000_000);
            })
            .split(", estimated")
            .next(),
            Some("job 12 waits for Resources (the nodes are busy)")
        );
        let running = |nodes: &[&str], restarts| {
            of(&|status| {
                status.state = JobState::Running;
                status.nodes = nodes.iter().map(ToString::to_string).collect();
                status.restarts = restarts;
            })
        };
        assert_eq!(running(&["n1", "n2"], 0), "job 12 runs on n1, n2");
        assert_eq!(
            running(&["a", "b", "c", "d", "e"], 1),
            "job 12 was requeued and runs on a, b, c, d and 1 more nodes"
        );
        let failed = of(&|status| {
            status.state = JobState::Running;
            status.reason = Some("it ended with exit code 5".into());
        });
        assert_eq!(failed, "job 12 runs: it ended with exit code 5");
        assert_eq!(super::status(&JobHandle("local:///x".into()), &JobState::Running.into()), None);
    }
}
