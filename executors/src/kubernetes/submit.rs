//! Submits jobs. The Job is created suspended and with a key of its own, then the objects that it owns, and then it is released.
//! So a request can be repeated after a lost connection, and deleting the Job deletes all.

use std::{
    collections::BTreeMap,
    hash::{BuildHasher as _, RandomState},
    path::Path,
    time::Duration,
};

use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{ConfigMap, Secret, Service},
};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions, PropagationPolicy};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{
    KubernetesExecutor,
    cluster::Cluster,
    folder,
    handle::KubernetesJob,
    names::{KEY, MANAGER, annotation, secret_name},
    refusal,
    state::has_ended,
};
use crate::{
    error::ExecutorError,
    job::JobHandle,
    kubernetes_error::KubernetesError,
    submission::{Payload, Submission},
};

/// Time for which it waits until the Job of the previous attempt is deleted.
const DELETE: Duration = Duration::from_secs(120);
/// Pause between two looks at it.
const PAUSE: Duration = Duration::from_millis(500);

/// Submits the job of a submission.
pub(super) async fn submit(executor: &KubernetesExecutor, submission: &Submission) -> Result<JobHandle, ExecutorError> {
    let objects = match &submission.payload {
        Payload::Manifests(manifests) => manifests.manifests.as_slice(),
        Payload::Processes(_) | Payload::BatchScript(_) => &[],
    };
    let Some((job, owned)) = objects.split_last().filter(|(job, _)| job["kind"] == "Job") else {
        let kind = objects.last().and_then(|object| object["kind"].as_str()).unwrap_or("nothing");
        return Err(ExecutorError::Refused {
            message: format!("a {kind} is rendered, not submitted: its controller starts the pods, and neva-run does not watch it"),
            help: "apply it with `neva-run render ... | kubectl apply -f -`, or remove `executor.kind`".to_owned(),
        });
    };
    let submitted = Submitted {
        executor,
        job,
        owned,
        dir: &submission.dir,
        key: format!("{:016x}", RandomState::new().hash_one(&submission.dir)),
    };
    executor.repeat(|| Box::pin(submitted.once())).await
}

/// A submission that may be repeated.
struct Submitted<'a> {
    executor: &'a KubernetesExecutor,
    job: &'a Value,
    owned: &'a [Value],
    dir: &'a Path,
    /// Key in the Job, by which a repetition finds it.
    key: String,
}

impl Submitted<'_> {
    async fn once(&self) -> Result<JobHandle, ExecutorError> {
        let cluster = self.executor.connect().await?;
        let name = self.job["metadata"]["name"].as_str().unwrap_or_default();
        let api = cluster.api::<Job>();
        let found = cluster.ask(api.get_opt(name)).await?;
        let job = match found {
            Some(job) if annotation(&job, KEY) == Some(&self.key) => job,
            Some(job) if !has_ended(&job) => return Err(ExecutorError::AlreadyRunning { dir: self.dir.to_owned() }),
            found => {
                if let Some(job) = found {
                    delete(&cluster, &job).await?;
                }
                let mut job = self.job.clone();
                job["metadata"]["annotations"][KEY] = json!(self.key);
                job["spec"]["suspend"] = json!(true);
                let params = PostParams {
                    field_manager: Some(MANAGER.to_owned()),
                    ..PostParams::default()
                };
                cluster.ask(api.create(&params, &serde_json::from_value(job)?)).await?
            }
        };
        if let Err(error) = self.release(&cluster, &job).await {
            if !error.is_connection_lost() {
                // Nothing of it is left behind.
                let _ = cluster.ask(api.delete(name, &background(&job))).await;
            }
            return Err(error);
        }
        let handle = KubernetesJob {
            namespace: cluster.namespace.clone(),
            name: name.to_owned(),
            uid: job.metadata.uid.clone().unwrap_or_default(),
            dir: self.dir.to_owned(),
        };
        Ok(handle.handle())
    }

    /// Applies the objects that the Job owns, and lets it start.
    async fn release(&self, cluster: &Cluster, job: &Job) -> Result<(), ExecutorError> {
        let owner = json!([{
            "apiVersion": "batch/v1",
            "kind": "Job",
            "name": job.metadata.name,
            "uid": job.metadata.uid,
        }]);
        let claim = folder::claim(&cluster.namespace, self.dir);
        let secret = secret(self.job, &self.executor.environment);
        for object in self.owned.iter().chain([&claim]).chain(secret.as_ref()) {
            let mut object = object.clone();
            object["metadata"]["ownerReferences"] = owner.clone();
            apply(cluster, &object).await?;
        }
        // Kueue starts a job of its queues.
        if self.job["spec"]["suspend"] != true {
            let name = job.metadata.name.as_deref().unwrap_or_default();
            let patch = Patch::Merge(json!({ "spec": { "suspend": false } }));
            cluster
                .ask(cluster.api::<Job>().patch(name, &PatchParams::apply(MANAGER), &patch))
                .await?;
        }
        Ok(())
    }
}

/// Applies an object on the server.
async fn apply(cluster: &Cluster, object: &Value) -> Result<(), ExecutorError> {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let params = PatchParams::apply(MANAGER).force();
    let patch = Patch::Apply(object);
    match object["kind"].as_str().unwrap_or_default() {
        "Service" => cluster.ask(cluster.api::<Service>().patch(name, &params, &patch)).await.map(drop),
        "Secret" => cluster.ask(cluster.api::<Secret>().patch(name, &params, &patch)).await.map(drop),
        _ => cluster.ask(cluster.api::<ConfigMap>().patch(name, &params, &patch)).await.map(drop),
    }
}

/// Returns the Secret with the variables of the launcher, if there are any.
fn secret(job: &Value, variables: &BTreeMap<String, String>) -> Option<Value> {
    let metadata = &job["metadata"];
    (!variables.is_empty()).then(|| {
        json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {
                "name": secret_name(metadata["name"].as_str().unwrap_or_default()),
                "labels": metadata["labels"],
            },
            "stringData": variables,
        })
    })
}

fn background(job: &Job) -> DeleteParams {
    DeleteParams {
        propagation_policy: Some(PropagationPolicy::Background),
        preconditions: Some(Preconditions {
            uid: job.metadata.uid.clone(),
            resource_version: None,
        }),
        ..DeleteParams::default()
    }
}

/// Deletes the Job of an earlier attempt and waits until it is gone. Its logs are still on the volume.
async fn delete(cluster: &Cluster, job: &Job) -> Result<(), ExecutorError> {
    let api = cluster.api::<Job>();
    let name = job.metadata.name.as_deref().unwrap_or_default();
    let deleted = cluster.ask(api.delete(name, &background(job))).await;
    if let Err(error) = deleted
        && !refusal::has_words(&error, &["not found", "Precondition failed"])
    {
        return Err(error);
    }
    let end = Instant::now() + DELETE;
    while cluster
        .ask(api.get_opt(name))
        .await?
        .is_some_and(|found| found.metadata.uid == job.metadata.uid)
    {
        if Instant::now() > end {
            let help = format!("see `kubectl get job {name} -o yaml` for finalizers");
            return Err(ExecutorError::Kubernetes(KubernetesError::Refused {
                place: cluster.place.clone(),
                words: format!("the Job {name} of the earlier attempt is not deleted"),
                help: Some(help),
                is_input: false,
            }));
        }
        sleep(PAUSE).await;
    }
    Ok(())
}
