//! The Indexed Job.

use neva_schemas::KubernetesExecutorConfig;
use serde_json::{Value, json};

use super::{
    super::names::{Names, workload_metadata},
    pod::CONTAINER,
    shape::Shape,
    work::Work,
};
use crate::submission::JobKind;

/// Exit code of a pod whose ranks failed because another pod was lost or failed.
const BY_PEER: u8 = 75;
/// Exit code of a pod that was restarted too often.
const TOO_MANY_RESTARTS: u8 = 76;

/// Returns the Job.
pub(super) fn job(config: &KubernetesExecutorConfig, work: Work<'_>, shape: Shape, names: &Names, template: Value) -> Value {
    json!({
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": workload_metadata(config, names, ranks_of(work, shape)),
        "spec": job_spec(config, work, shape, template),
    })
}

/// Returns the ranks of each pod; 0 for a script.
pub(super) fn ranks_of(work: Work<'_>, shape: Shape) -> u32 {
    match work.kind() {
        JobKind::Ranks => shape.ranks_per_pod,
        JobKind::Script => 0,
    }
}

/// Returns the spec of a Job with `template` for its pods.
pub(super) fn job_spec(config: &KubernetesExecutorConfig, work: Work<'_>, shape: Shape, template: Value) -> Value {
    let mut spec = json!({
        "completionMode": "Indexed",
        "completions": shape.pods,
        "parallelism": shape.pods,
        "podFailurePolicy": failure_policy(work),
    });
    match config.backoff_limit_per_index {
        Some(limit) => spec["backoffLimitPerIndex"] = json!(limit),
        None => spec["backoffLimit"] = json!(config.retries),
    }
    if config.succeed_with_rank_0 {
        spec["successPolicy"] = json!({ "rules": [{ "succeededIndexes": "0" }] });
    }
    if let Some(seconds) = config.ttl_seconds_after_finished {
        spec["ttlSecondsAfterFinished"] = json!(seconds);
    }
    if let Some(seconds) = config.active_deadline_seconds {
        spec["activeDeadlineSeconds"] = json!(seconds);
    }
    // Kueue starts it.
    if config.queue.is_some() {
        spec["suspend"] = json!(true);
    }
    spec["template"] = template;
    spec
}

/// Returns what the failures of a pod mean. All others count as retries.
fn failure_policy(work: Work<'_>) -> Value {
    let on_exit = |action: &str, codes: &[u8]| {
        json!({
            "action": action,
            "onExitCodes": { "containerName": CONTAINER, "operator": "In", "values": codes },
        })
    };
    let fatal: &[u8] = match work.kind() {
        JobKind::Ranks => &[2, 4, TOO_MANY_RESTARTS],
        JobKind::Script => &[TOO_MANY_RESTARTS],
    };
    json!({ "rules": [
        // Its node was drained or lost, or it was preempted.
        { "action": "Ignore", "onPodConditions": [{ "type": "DisruptionTarget", "status": "True" }] },
        on_exit("Ignore", &[BY_PEER]),
        on_exit("FailJob", fatal),
    ] })
}
