//! Why a job does not run, in the cluster's words and with the setting to change.

mod events;
mod sentence;

use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{Event, Pod},
};

use self::{
    events::{not_created, not_mounted, pulling},
    sentence::sentence,
};

/// Returns why pods of a job do not run; `None` if nothing is known to hold them back. The same cause gives the same text: names of
/// pods and containers, which change with each attempt, are left out.
pub(super) fn reason(job: &Job, pods: &[Pod], events: &[Event]) -> Option<String> {
    if job.spec.as_ref().and_then(|spec| spec.suspend) == Some(true) {
        let queue = job
            .metadata
            .labels
            .as_ref()
            .is_some_and(|labels| labels.contains_key("kueue.x-k8s.io/queue-name"));
        return Some(match queue {
            true => "Suspended: the queue starts it when there is room for all of its pods".to_owned(),
            false => "Suspended: `kubectl patch job NAME -p '{\"spec\":{\"suspend\":false}}'` starts it".to_owned(),
        });
    }
    let pods: Vec<_> = pods.iter().filter(|pod| phase(pod) == "Pending").collect();
    let text = pods
        .iter()
        .find_map(|pod| container_waits(pod))
        .or_else(|| pods.iter().find_map(|pod| not_scheduled(pod)))
        .or_else(|| pods.iter().find_map(|pod| not_mounted(pod, events)))
        .or_else(|| not_created(job, events))
        .or_else(|| pods.iter().find_map(|pod| pulling(pod, events)))?;
    Some(text)
}

fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

/// Returns why a container of the pod was not started, once it is more than on its way.
fn container_waits(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let containers = [&status.init_container_statuses, &status.container_statuses];
    let mut waiting = containers.into_iter().flatten().flatten();
    waiting.find_map(|container| {
        let waiting = container.state.as_ref()?.waiting.as_ref()?;
        let reason = waiting.reason.as_deref()?;
        let message = waiting.message.as_deref().unwrap_or_default();
        let image = &container.image;
        Some(match reason {
            "ContainerCreating" | "PodInitializing" => return None,
            // The kubelet goes back and forth between these two.
            "ErrImagePull" | "ImagePullBackOff" | "RegistryUnavailable" => {
                let words = message.split_once("ErrImagePull: ").map_or(message, |(_, words)| words);
                let hint = if ["401", "403", "unauthorized", "denied", "authentication"]
                    .iter()
                    .any(|word| words.to_lowercase().contains(word))
                {
                    "set `image_pull_secrets` to a Secret with a login of the registry, or correct `image`"
                } else {
                    "correct `image`, or check that the nodes reach its registry"
                };
                sentence("ErrImagePull", &format!("the image {image} cannot be pulled: {words}"), hint)
            }
            "ErrImageNeverPull" => sentence(
                reason,
                message,
                "load the image on the nodes, or set `image_pull_policy: IfNotPresent`",
            ),
            "InvalidImageName" => sentence(reason, message, "correct `image`"),
            "CreateContainerConfigError" => sentence(
                reason,
                message,
                "create what is missing in the namespace, or correct `env_secrets`, `volumes` or `overrides`",
            ),
            "CrashLoopBackOff" => sentence(reason, message, "`neva-run experiment logs` and `kubectl logs` show why it ends"),
            _ => sentence(
                reason,
                message,
                "correct `image`, `rank_program`, `security_context` or `overrides`",
            ),
        })
    })
}

/// Returns why the scheduler found no node for the pod.
fn not_scheduled(pod: &Pod) -> Option<String> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let condition = conditions
        .iter()
        .find(|condition| condition.type_ == "PodScheduled" && condition.status == "False")?;
    let message = condition.message.as_deref().unwrap_or_default();
    let words = message.split(" preemption: ").next().unwrap_or(message);
    let words = words.replace(" no new claims to deallocate,", "");
    let hint = if words.contains("persistentvolumeclaim") {
        "create the claim, or correct `claim` in `volumes`: `kubectl get pvc`"
    } else if words.contains("Insufficient") {
        "change `requests`, `limits` or `gpus_per_node`, or wait for other pods to end"
    } else if words.contains("node affinity/selector") {
        "correct `node_selector` or `affinity`: `kubectl get nodes --show-labels`"
    } else if words.contains("taint") {
        "add `tolerations`, or wait until the nodes are ready"
    } else if words.contains("anti-affinity") || words.contains("topology spread") {
        "it needs more nodes: change `num_nodes`, `one_pod_per_node` or `topology_spread_constraints`"
    } else if words.contains("unschedulable") {
        "wait until a node is open again: `kubectl uncordon NODE`"
    } else {
        "`kubectl describe pod` tells more"
    };
    Some(sentence(condition.reason.as_deref().unwrap_or("Unschedulable"), &words, hint))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::serde_json::{Value, from_value, json};

    use super::*;

    fn pod(status: Value) -> Pod {
        let mut status = status;
        status["phase"] = json!("Pending");
        from_value(json!({ "metadata": { "name": "run-0-abcde" }, "status": status })).unwrap()
    }

    fn waiting(reason: &str, message: &str) -> Pod {
        pod(json!({ "containerStatuses": [{
            "name": "ranks", "image": "registry.invalid/neva:1", "imageID": "", "ready": false, "restartCount": 0,
            "state": { "waiting": { "reason": reason, "message": message } },
        }] }))
    }

    fn unschedulable(message: &str) -> Pod {
        pod(json!({ "conditions": [{ "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message }] }))
    }

    fn event(kind: &str, name: &str, reason: &str, message: &str) -> Event {
        from_value(json!({
            "metadata": { "name": "event" }, "involvedObject": { "kind": kind, "name": name }, "reason": reason, "message": message,
        }))
        .unwrap()
    }

    fn job(spec: Value) -> Job {
        from_value(json!({ "metadata": { "name": "run" }, "spec": spec })).unwrap()
    }

    fn plain() -> Job {
        job(json!({ "parallelism": 2, "template": {} }))
    }

    /// Words of Kubernetes 1.36.
    #[test]
    fn a_cause_has_its_words_and_a_setting() {
        let back_off = "Back-off pulling image \"registry.invalid/neva:1\": ErrImagePull: failed to do request: no such host";
        let cases = [
            (waiting("ImagePullBackOff", back_off), "no such host", "correct `image`"),
            (
                waiting("ErrImagePull", "pull access denied, repository does not exist"),
                "access denied",
                "`image_pull_secrets`",
            ),
            (
                waiting(
                    "ErrImageNeverPull",
                    "Container image \"x\" is not present with pull policy of Never",
                ),
                "not present",
                "`image_pull_policy",
            ),
            (
                waiting("CreateContainerConfigError", "secret \"absent\" not found"),
                "secret \"absent\" not found",
                "`env_secrets`",
            ),
            (
                unschedulable(
                    "0/2 nodes are available: 2 Insufficient nvidia.com/gpu. no new claims to deallocate, preemption: 0/2 nodes.",
                ),
                "Unschedulable: 0/2 nodes are available: 2 Insufficient nvidia.com/gpu;",
                "`gpus_per_node`",
            ),
            (
                unschedulable("0/2 nodes are available: persistentvolumeclaim \"absent\" not found. not found"),
                "persistentvolumeclaim \"absent\" not found",
                "`claim`",
            ),
            (
                unschedulable("0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector."),
                "didn't match",
                "`node_selector`",
            ),
        ];
        for (pod, words, setting) in cases {
            let text = reason(&plain(), &[pod], &[]).unwrap();
            assert!(text.contains(words) && text.contains(setting), "{text}");
        }
        // Both states of a pull that fails are one cause.
        let first = waiting("ErrImagePull", "failed to do request: no such host");
        let second = waiting("ImagePullBackOff", back_off);
        assert_eq!(reason(&plain(), &[first], &[]), reason(&plain(), &[second], &[]));
    }

    #[test]
    fn events_are_asked_where_the_status_is_silent() {
        let forbidden =
            "Error creating: pods \"run-0-xyz\" is forbidden: exceeded quota: team, requested: pods=1, used: pods=0, limited: pods=0";
        let text = reason(&plain(), &[], &[event("Job", "run", "FailedCreate", forbidden)]).unwrap();
        assert!(
            text.starts_with("FailedCreate: exceeded quota: team") && text.contains("quota of the namespace"),
            "{text}"
        );
        let creating = waiting("ContainerCreating", "");
        let mount = event(
            "Pod",
            "run-0-abcde",
            "FailedMount",
            "MountVolume.SetUp failed for volume \"v\" : configmap \"absent\" not found",
        );
        let text = reason(&plain(), std::slice::from_ref(&creating), &[mount]).unwrap();
        assert!(
            text.contains("configmap \"absent\" not found") && text.contains("`volumes`"),
            "{text}"
        );
        let pull = event("Pod", "run-0-abcde", "Pulling", "Pulling image \"x\"");
        assert_eq!(
            reason(&plain(), std::slice::from_ref(&creating), &[pull]).unwrap(),
            "Pulling image \"x\""
        );
        // Events of other pods, and nothing at all.
        let other = event("Pod", "other", "FailedMount", "no");
        assert_eq!(reason(&plain(), &[creating], &[other]), None);
    }

    #[test]
    fn a_suspended_job_waits_for_its_queue() {
        let mut queued = job(json!({ "suspend": true, "template": {} }));
        queued.metadata.labels = Some([("kueue.x-k8s.io/queue-name".to_owned(), "team".to_owned())].into());
        assert!(reason(&queued, &[], &[]).unwrap().contains("the queue starts it"));
    }
}
