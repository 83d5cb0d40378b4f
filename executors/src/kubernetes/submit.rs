//! Submits jobs. The Job is created suspended and with a key of its own, then the objects that it owns, and then it is released.
//! So a request can be repeated after a lost connection, and deleting the Job deletes all.

use std::{
    collections::BTreeMap,
    hash::{BuildHasher as _, RandomState},
    path::{Path, PathBuf},
    time::Duration,
};

use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{ConfigMap, Secret, Service},
};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions, PropagationPolicy};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::time::{Instant, sleep};

use super::{
    KubernetesExecutor,
    cluster::Cluster,
    handle::KubernetesJob,
    names::{DIR, KEY, MANAGED_BY, MANAGER, secret_name},
    state::{annotation, has_ended},
};
use crate::{
    error::ExecutorError,
    executor::BoxFuture,
    job::JobHandle,
    kubernetes_error::KubernetesError,
    submission::{Payload, Submission},
};

/// Time for which a submission waits for an API server that cannot be reached.
const SUBMIT: Duration = Duration::from_secs(600);
/// Time for which it waits until the Job of the previous attempt is deleted.
const DELETE: Duration = Duration::from_secs(120);
/// Pauses between two tries.
const PAUSE: Duration = Duration::from_millis(500);
const MAX_PAUSE: Duration = Duration::from_secs(10);
/// Maximum number of runs of one name that start in the same second.
const MAX_SUFFIX: u32 = 1000;

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
    executor.repeat(SUBMIT, || Box::pin(submitted.once())).await
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
        let claim = claim(&cluster.namespace, self.dir);
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
        && !is_code(&error, &["not found", "Precondition failed"])
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

/// Returns true for a refusal with one of these words.
fn is_code(error: &ExecutorError, known: &[&str]) -> bool {
    let ExecutorError::Kubernetes(KubernetesError::Refused { words, .. }) = error else {
        return false;
    };
    known.iter().any(|known| words.contains(known))
}

/// Returns the ConfigMap that claims a folder for a run.
fn claim(namespace: &str, dir: &Path) -> Value {
    let hash = Sha256::digest(format!("{namespace}\n{}", dir.display()).as_bytes());
    let hash: String = hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": format!("neva-folder-{hash}"),
            "labels": { MANAGED_BY: MANAGER },
            "annotations": { DIR: dir.display().to_string() },
        },
    })
}

/// Claims the folder of a new run: only one launcher can create the object of its name. The ranks create the folder itself.
pub(super) async fn create_folder(executor: &KubernetesExecutor, first: &Path) -> Result<PathBuf, ExecutorError> {
    for suffix in 0..MAX_SUFFIX {
        let mut folder = first.as_os_str().to_owned();
        if suffix > 0 {
            folder.push(format!("-{suffix}"));
        }
        let folder = PathBuf::from(folder);
        // A repeated request may find the object of the lost one; then the next name is taken.
        let created = executor.repeat(SUBMIT, || Box::pin(claim_folder(executor, &folder))).await?;
        if created {
            return Ok(folder);
        }
    }
    Err(ExecutorError::File {
        action: "create",
        path: first.to_owned(),
        source: std::io::ErrorKind::AlreadyExists.into(),
    })
}

/// Creates the object that claims a folder. Returns false if there is one.
async fn claim_folder(executor: &KubernetesExecutor, folder: &Path) -> Result<bool, ExecutorError> {
    let cluster = executor.connect().await?;
    let claim: ConfigMap = serde_json::from_value(claim(&cluster.namespace, folder))?;
    let params = PostParams {
        field_manager: Some(MANAGER.to_owned()),
        ..PostParams::default()
    };
    match cluster.ask(cluster.api::<ConfigMap>().create(&params, &claim)).await {
        Ok(_) => Ok(true),
        Err(error) if is_code(&error, &["already exists"]) => Ok(false),
        Err(error) => Err(error),
    }
}

impl KubernetesExecutor {
    /// Repeats a request until it is answered, with a new connection each time.
    async fn repeat<'a, T>(
        &self,
        limit: Duration,
        request: impl Fn() -> BoxFuture<'a, Result<T, ExecutorError>>,
    ) -> Result<T, ExecutorError> {
        let end = Instant::now() + limit;
        let mut pause = PAUSE;
        loop {
            match request().await {
                Err(error) if error.is_connection_lost() && Instant::now() < end => {
                    tracing::warn!("{}; trying again", error.reason());
                    self.forget().await;
                    sleep(pause).await;
                    pause = (2 * pause).min(MAX_PAUSE);
                }
                answer => return answer,
            }
        }
    }
}
