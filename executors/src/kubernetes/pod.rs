//! What is used of a pod.

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

use super::message::PodMessage;

/// Label of the pods of an Indexed Job: their index.
const INDEX: &str = "batch.kubernetes.io/job-completion-index";

/// A pod of a job.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct PodState {
    pub(super) name: String,
    pub(super) index: u32,
    /// Seconds since the epoch.
    pub(super) created: i64,
    pub(super) node: Option<String>,
    pub(super) phase: PodPhase,
}

/// Phase of a pod.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum PodPhase {
    /// Its container has not started.
    Waiting,
    /// Its container runs.
    Running,
    /// It has ended.
    Ended(PodEnd),
}

/// The end of a pod.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct PodEnd {
    /// Exit code of the container; `None` if it never ran.
    pub(super) code: Option<i32>,
    /// Reason of the container or the pod: `OOMKilled`, `Evicted`, `StartError`.
    pub(super) reason: String,
    /// Words of the container runtime or the kubelet.
    pub(super) words: String,
    /// Message of the start script.
    pub(super) message: Option<PodMessage>,
    /// Times in seconds since the epoch.
    pub(super) started: i64,
    pub(super) finished: i64,
}

impl PodState {
    /// Reads a pod; `None` if it does not belong to an Indexed Job.
    pub(super) fn new(pod: &Pod) -> Option<Self> {
        let index = pod.metadata.labels.as_ref()?.get(INDEX)?.parse().ok()?;
        let status = pod.status.as_ref();
        let container = status.and_then(|status| status.container_statuses.as_ref()?.first());
        let phase = status.and_then(|status| status.phase.as_deref()).unwrap_or_default();
        Some(Self {
            name: pod.metadata.name.clone()?,
            index,
            created: pod.metadata.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second()),
            node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
            phase: match (end(container), phase) {
                (Some(end), _) => PodPhase::Ended(end),
                // Without a container: evicted, or refused by its node.
                (None, "Failed" | "Succeeded") => PodPhase::Ended(PodEnd {
                    reason: status.and_then(|status| status.reason.clone()).unwrap_or_default(),
                    words: status.and_then(|status| status.message.clone()).unwrap_or_default(),
                    ..PodEnd::default()
                }),
                (None, _) if container.is_some_and(is_running) => PodPhase::Running,
                (None, _) => PodPhase::Waiting,
            },
        })
    }

    /// Returns its end, if it has ended.
    pub(super) fn end(&self) -> Option<&PodEnd> {
        match &self.phase {
            PodPhase::Ended(end) => Some(end),
            PodPhase::Waiting | PodPhase::Running => None,
        }
    }
}

fn is_running(container: &ContainerStatus) -> bool {
    container.state.as_ref().is_some_and(|state| state.running.is_some())
}

fn end(container: Option<&ContainerStatus>) -> Option<PodEnd> {
    let ended = container?.state.as_ref()?.terminated.as_ref()?;
    let words = ended.message.clone().unwrap_or_default();
    Some(PodEnd {
        code: Some(ended.exit_code),
        reason: ended.reason.clone().unwrap_or_default(),
        message: PodMessage::parse(&words),
        words,
        started: ended.started_at.as_ref().map_or(0, |time| time.0.as_second()),
        finished: ended.finished_at.as_ref().map_or(0, |time| time.0.as_second()),
    })
}

/// Returns the pods of a job by index, the oldest first.
pub(super) fn pod_states<'a>(pods: impl IntoIterator<Item = &'a Pod>) -> Vec<PodState> {
    let mut states: Vec<_> = pods.into_iter().filter_map(PodState::new).collect();
    states.sort_by(|one, other| (one.index, one.created, &one.name).cmp(&(other.index, other.created, &other.name)));
    states
}

/// Returns the newest pod of each index.
pub(super) fn newest(states: &[PodState]) -> Vec<&PodState> {
    let next = states.iter().skip(1).map(Some).chain([None]);
    let is_newest = |(state, next): &(&PodState, Option<&PodState>)| next.is_none_or(|next| next.index != state.index);
    states.iter().zip(next).filter(is_newest).map(|(state, _)| state).collect()
}
