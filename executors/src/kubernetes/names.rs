//! Names, labels and annotations of the objects of a job.

use k8s_openapi::api::batch::v1::Job;
use neva_schemas::KubernetesExecutorConfig;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

/// Program in the label `app.kubernetes.io/managed-by`, by which all objects of neva-run are found.
pub(super) const MANAGER: &str = "neva-run";
/// Label with the name of [`MANAGER`].
pub(super) const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Label of all objects of a job: its name.
pub(super) const JOB: &str = "neva-run/job";
/// Annotation: the name of the run.
pub(super) const RUN: &str = "neva-run/run";
/// Annotation: the job's folder, as pods see it.
pub(super) const DIR: &str = "neva-run/dir";
/// Annotation: ranks of each pod; 0 for a script.
pub(super) const RANKS: &str = "neva-run/ranks-per-pod";
/// Annotation of a Job: key of the submission that created it.
pub(super) const KEY: &str = "neva-run/key";
/// Annotation of a Job and of its pods: signal of the request to stop.
pub(super) const STOP: &str = "neva-run/stop";
/// Annotation of a Job: its final state and results.
pub(super) const END: &str = "neva-run/end";
/// Label of Kueue: the local queue.
pub(super) const QUEUE: &str = "kueue.x-k8s.io/queue-name";

/// Maximum length of the readable part of a name; the names of pods are longer.
const MAX_SLUG: usize = 40;

/// Names of the objects of a job.
#[derive(Debug, Clone)]
pub(super) struct Names {
    /// Name of the Job, its Service and its ConfigMap: the run's name, and the hash of its folder.
    pub(super) job: String,
    /// Name of the run.
    run: String,
    dir: String,
}

impl Names {
    /// Returns the names of the job in the folder `dir`, the same for each attempt at it.
    pub(super) fn new(config: &KubernetesExecutorConfig, run: &str, dir: &str) -> Self {
        let place = format!("{}\n{dir}", config.namespace.as_deref().unwrap_or_default());
        let hash = Sha256::digest(place.as_bytes());
        let hash: String = hash.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        Self {
            job: format!("{}-{hash}", slug(run)),
            run: run.to_owned(),
            dir: dir.to_owned(),
        }
    }

    /// Returns the name of the Secret with variables of the launcher.
    pub(super) fn secret(&self) -> String {
        secret_name(&self.job)
    }

    /// Returns the labels by which the pods of the job are found.
    pub(super) fn selector(&self) -> Value {
        json!({ JOB: self.job })
    }
}

/// Returns the name of the Secret of a job.
pub(super) fn secret_name(job: &str) -> String {
    format!("{job}-env")
}

/// Returns the metadata of an object.
pub(super) fn metadata(config: &KubernetesExecutorConfig, names: &Names) -> Value {
    let mut metadata = Map::new();
    metadata.insert("name".into(), json!(names.job));
    if let Some(namespace) = &config.namespace {
        metadata.insert("namespace".into(), json!(namespace));
    }
    metadata.insert("labels".into(), labels(config, names));
    metadata.insert("annotations".into(), annotations(config, names));
    Value::Object(metadata)
}

/// Returns the metadata of the object that makes the pods: with the queue of Kueue, and the ranks of each pod.
pub(super) fn workload_metadata(config: &KubernetesExecutorConfig, names: &Names, ranks_per_pod: u32) -> Value {
    let mut metadata = metadata(config, names);
    if let Some(queue) = &config.queue {
        metadata["labels"][QUEUE] = json!(queue);
    }
    metadata["annotations"][RANKS] = json!(ranks_per_pod.to_string());
    metadata
}

/// Returns the labels of all objects.
pub(super) fn labels(config: &KubernetesExecutorConfig, names: &Names) -> Value {
    let mut labels: Map<_, _> = config.labels.iter().map(|(key, value)| (key.clone(), json!(value))).collect();
    labels.insert(MANAGED_BY.into(), json!(MANAGER));
    labels.insert(JOB.into(), json!(names.job));
    Value::Object(labels)
}

/// Returns the annotations of all objects.
pub(super) fn annotations(config: &KubernetesExecutorConfig, names: &Names) -> Value {
    let mut annotations: Map<_, _> = config.annotations.iter().map(|(key, value)| (key.clone(), json!(value))).collect();
    annotations.insert(RUN.into(), json!(names.run));
    annotations.insert(DIR.into(), json!(names.dir));
    Value::Object(annotations)
}

/// Returns an annotation of the Job.
pub(super) fn annotation<'a>(job: &'a Job, name: &str) -> Option<&'a str> {
    job.metadata.annotations.as_ref()?.get(name).map(String::as_str)
}

/// Returns the part of a name that people recognize: small letters, digits and `-`, with a letter first.
fn slug(name: &str) -> String {
    let mut slug = String::new();
    for c in name.chars().flat_map(char::to_lowercase) {
        match c {
            c if c.is_ascii_alphanumeric() => slug.push(c),
            _ if slug.is_empty() || slug.ends_with('-') => {}
            _ => slug.push('-'),
        }
    }
    if !slug.starts_with(|c: char| c.is_ascii_lowercase()) {
        slug.insert_str(0, "run-");
    }
    slug.truncate(MAX_SLUG);
    slug.trim_end_matches('-').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_readable_and_belongs_to_one_folder() {
        let config = KubernetesExecutorConfig::default();
        let name = |run: &str, dir: &str| Names::new(&config, run, dir).job;
        assert_eq!(name("neva_tiny", "/runs/a"), "neva-tiny-c082f5f4");
        assert_ne!(name("neva_tiny", "/runs/a"), name("neva_tiny", "/runs/b"));
        for (run, slug) in [
            ("LLaVA 1.5", "llava-1-5-"),
            ("lr=1e-4", "lr-1e-4-"),
            ("7b", "run-7b-"),
            ("---", "run-"),
            ("Größe", "gr-e-"),
            (&"x".repeat(90), "xxxxxxxx"),
        ] {
            let name = name(run, "/runs/a");
            assert!(name.starts_with(slug), "{name}");
            // A pod is `NAME-INDEX`, with up to 5 digits.
            assert!(name.len() <= 57 && neva_schemas::is_dns_label(&name), "{name}");
        }
    }
}
