//! Causes that only the events of a Job and its pods tell.

use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{Event, Pod},
};

use super::sentence::sentence;

/// Returns why a volume of the pod is not there.
pub(super) fn not_mounted(pod: &Pod, events: &[Event]) -> Option<String> {
    let event = latest(events, "Pod", pod.metadata.name.as_deref()?, |reason| {
        ["FailedMount", "FailedAttachVolume", "FailedCreatePodSandBox"].contains(&reason)
    })?;
    let reason = event.reason.as_deref().unwrap_or("FailedMount");
    let hint = match reason {
        "FailedCreatePodSandBox" => "the node cannot start pods: ask the cluster's administrators",
        _ => "correct `volumes`, or create what they name",
    };
    Some(sentence(reason, event.message.as_deref().unwrap_or_default(), hint))
}

/// Returns why the job's controller cannot create pods.
pub(super) fn not_created(job: &Job, events: &[Event]) -> Option<String> {
    let status = job.status.as_ref();
    let pods = status.map_or(0, |status| status.active.unwrap_or(0) + status.succeeded.unwrap_or(0));
    let wanted = job.spec.as_ref().and_then(|spec| spec.parallelism).unwrap_or(1);
    if pods >= wanted {
        return None;
    }
    let event = latest(events, "Job", job.metadata.name.as_deref()?, |reason| reason == "FailedCreate")?;
    let message = event.message.as_deref().unwrap_or_default();
    let words = message.split_once(" is forbidden: ").map_or(message, |(_, words)| words);
    let hint = if words.contains("quota") {
        "ask for less, wait for other pods to end, or have the quota of the namespace raised: `kubectl describe quota`"
    } else if words.contains("service account") {
        "correct `service_account`: `kubectl get serviceaccounts`"
    } else if words.contains("PriorityClass") {
        "correct `priority_class`: `kubectl get priorityclasses`"
    } else if words.contains("PodSecurity") {
        "set `security_context` and `container_security_context` as the namespace wants them"
    } else {
        "an admission policy of the cluster refuses the pods: correct what it names"
    };
    Some(sentence("FailedCreate", words, hint))
}

/// Returns what a node is doing for the pod.
pub(super) fn pulling(pod: &Pod, events: &[Event]) -> Option<String> {
    let name = pod.metadata.name.as_deref()?;
    let event = latest(events, "Pod", name, |reason| ["Pulling", "Pulled"].contains(&reason))?;
    (event.reason.as_deref() == Some("Pulling")).then(|| event.message.clone())?
}

/// Returns the newest event of an object with such a reason.
fn latest<'a>(events: &'a [Event], kind: &str, name: &str, is_reason: impl Fn(&str) -> bool) -> Option<&'a Event> {
    let of_it = events.iter().filter(|event| {
        let object = &event.involved_object;
        object.kind.as_deref() == Some(kind) && object.name.as_deref() == Some(name) && event.reason.as_deref().is_some_and(&is_reason)
    });
    of_it.max_by_key(|event| {
        let last = event.last_timestamp.as_ref().map(|time| time.0);
        let created = event.metadata.creation_timestamp.as_ref().map(|time| time.0);
        last.or(created)
    })
}
