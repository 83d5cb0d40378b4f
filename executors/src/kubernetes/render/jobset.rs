//! The JobSet: `jobset.x-k8s.io`.

use neva_schemas::KubernetesExecutorConfig;
use serde_json::{Value, json};

use super::{
    super::names::{Names, workload_metadata},
    job::{job_spec, ranks_of},
    shape::Shape,
    work::Work,
};

/// Name of the only replicated Job.
pub(super) const REPLICATED_JOB: &str = "ranks";

/// Returns the JobSet. Its controller makes the Service, whose name is that of the JobSet.
pub(super) fn jobset(config: &KubernetesExecutorConfig, work: Work<'_>, shape: Shape, names: &Names, mut template: Value) -> Value {
    // The controller sets it.
    if let Some(spec) = template["spec"].as_object_mut() {
        spec.shift_remove("subdomain");
    }
    let mut job = job_spec(config, work, shape, template);
    let mut spec = json!({ "failurePolicy": { "maxRestarts": 0 } });
    if let Some(job) = job.as_object_mut() {
        // These belong to the JobSet as a whole.
        for name in ["ttlSecondsAfterFinished", "suspend"] {
            if let Some(value) = job.shift_remove(name) {
                spec[name] = value;
            }
        }
    }
    spec["network"] = json!({ "enableDNSHostnames": true, "publishNotReadyAddresses": true });
    spec["replicatedJobs"] = json!([{ "name": REPLICATED_JOB, "replicas": 1, "template": { "spec": job } }]);
    json!({
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": workload_metadata(config, names, ranks_of(work, shape)),
        "spec": spec,
    })
}
