//! Runs a plan as a job of a Kubernetes cluster.
//!
//! [`render`] makes the objects, without I/O. The state of a job is Kubernetes' own: the Job and its pods, and what the start
//! script of a pod leaves in its termination message and its output. So the launcher reads nothing in the job's folder, which is
//! on a volume of the cluster.
//!
//! | object | holds |
//! |---|---|
//! | Job `NAME` | the pods; annotations `neva-run/key` of its submission, `neva-run/stop` of a cancel request, `neva-run/end` of its end |
//! | Service `NAME` | the names of several pods |
//! | ConfigMap `NAME` | plan and start script |
//! | Secret `NAME-env` | variables of the launcher that `env_from` names |
//! | ConfigMap `neva-folder-HASH` | claims the run's folder for one launcher |
//!
//! The Job owns the others: deleting it deletes all.

mod cancel;
mod cluster;
mod event_stream;
mod folder;
mod follow;
mod handle;
mod line;
mod logs;
mod message;
mod names;
mod pod;
mod query;
mod record;
mod refusal;
pub mod render;
mod repeat;
mod reporter;
mod shared;
mod state;
mod store;
mod submit;
pub mod survey;
mod waiting;
mod watch;

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, Weak},
};

use kube::Client;
use neva_schemas::{KubernetesExecutorConfig, LaunchPlan, ScriptPlan, StopSignal};

pub use cluster::Cluster;
pub use handle::job_name;

use self::{cluster::Connector, handle::KubernetesJob, pod::pod_states, shared::Shared, state::ranks_per_pod};
use crate::{
    error::ExecutorError,
    event::{JobResults, JobStatus, WatchFrom},
    executor::{BoxFuture, Executor, JobEvents, LogChunk},
    job::JobHandle,
    submission::Submission,
};

/// Submits jobs to Kubernetes.
#[derive(Clone)]
pub struct KubernetesExecutor {
    /// Settings.
    pub config: KubernetesExecutorConfig,
    /// Variables of the launcher that jobs receive in a Secret.
    environment: BTreeMap<String, String>,
    /// Folder of runs, as pods see it.
    runs: PathBuf,
    connector: Connector,
    /// The watch that the watched jobs of a namespace share. It holds answers of the API server only.
    shared: Arc<Mutex<BTreeMap<String, Weak<Shared>>>>,
}

impl KubernetesExecutor {
    /// Creates an executor. It connects to the cluster with its first request.
    pub fn new(config: KubernetesExecutorConfig) -> Self {
        Self {
            environment: BTreeMap::new(),
            runs: config.runs_dir().unwrap_or(render::RUNS).into(),
            config,
            connector: Connector::new(None),
            shared: Arc::default(),
        }
    }

    /// Sends all requests through `client` instead of one for the kubeconfig.
    #[must_use]
    pub fn client(mut self, client: Client) -> Self {
        self.connector = Connector::new(Some(client));
        self
    }

    /// Passes these variables of the launcher to jobs, in a Secret.
    #[must_use]
    pub fn environment(mut self, variables: BTreeMap<String, String>) -> Self {
        self.environment = variables;
        self
    }

    /// Returns the connection to the cluster.
    ///
    /// # Errors
    /// The kubeconfig cannot be used.
    pub async fn connect(&self) -> Result<Cluster, ExecutorError> {
        self.connector.connect(&self.config).await
    }

    /// Forgets the connection: the next request reads the kubeconfig again.
    async fn forget(&self) {
        self.connector.forget().await;
    }

    /// Returns the shared watch of a namespace, which ends with the last one that uses it.
    fn shared(&self, namespace: &str) -> Arc<Shared> {
        let mut all = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = all.entry(namespace.to_owned()).or_default();
        shared.upgrade().unwrap_or_else(|| {
            let started = Shared::start(self, namespace);
            *shared = Arc::downgrade(&started);
            started
        })
    }

    fn parse(job: &JobHandle) -> Result<KubernetesJob, ExecutorError> {
        KubernetesJob::parse(job).ok_or_else(|| ExecutorError::UnknownJob { job: job.clone() })
    }

    /// Returns the connection for the job of a handle, whose namespace may be another one.
    async fn cluster_of(&self, job: &KubernetesJob) -> Result<Cluster, ExecutorError> {
        self.cluster_in(&job.namespace).await
    }

    /// Returns the connection for a namespace. The one of the kubeconfig may have changed since a job was submitted.
    async fn cluster_in(&self, namespace: &str) -> Result<Cluster, ExecutorError> {
        let mut cluster = self.connect().await?;
        namespace.clone_into(&mut cluster.namespace);
        Ok(cluster)
    }
}

/// Shows the names of the variables alone: their values are secrets.
impl fmt::Debug for KubernetesExecutor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let variables: Vec<_> = self.environment.keys().collect();
        f.debug_struct("KubernetesExecutor")
            .field("config", &self.config)
            .field("variables", &variables)
            .finish_non_exhaustive()
    }
}

impl Executor for KubernetesExecutor {
    fn name(&self) -> &'static str {
        "kubernetes"
    }

    fn runs_folder(&self) -> Option<&Path> {
        Some(&self.runs)
    }

    fn paths_folder(&self, _dir: &Path) -> Option<PathBuf> {
        Some(self.runs.clone())
    }

    fn render(&self, plan: &LaunchPlan) -> Result<Submission, ExecutorError> {
        render::render(&self.config, plan)
    }

    fn render_script(&self, script: &ScriptPlan) -> Result<Submission, ExecutorError> {
        render::render_script(&self.config, script)
    }

    fn create_folder<'a>(&'a self, dir: &'a Path) -> BoxFuture<'a, Result<PathBuf, ExecutorError>> {
        Box::pin(folder::create_folder(self, dir))
    }

    fn submit<'a>(&'a self, submission: &'a Submission) -> BoxFuture<'a, Result<JobHandle, ExecutorError>> {
        Box::pin(submit::submit(self, submission))
    }

    fn watch<'a>(&'a self, job: &'a JobHandle, from: WatchFrom) -> JobEvents<'a> {
        watch::watch(self, job, from)
    }

    fn status<'a>(&'a self, job: &'a JobHandle) -> BoxFuture<'a, Result<JobStatus, ExecutorError>> {
        Box::pin(async move {
            let job = Self::parse(job)?;
            query::status(&self.cluster_of(&job).await?, &job).await
        })
    }

    fn statuses<'a>(&'a self, jobs: &'a [JobHandle]) -> BoxFuture<'a, Vec<Result<JobStatus, ExecutorError>>> {
        Box::pin(async move {
            let cluster = match self.connect().await {
                Ok(cluster) => cluster,
                Err(error) => return jobs.iter().map(|_| Err(error.repeated())).collect(),
            };
            // A list for each namespace: as a rule there is one.
            let mut by_namespace = BTreeMap::<String, Vec<(usize, KubernetesJob)>>::new();
            let mut statuses = BTreeMap::new();
            for (number, job) in jobs.iter().enumerate() {
                match Self::parse(job) {
                    Ok(parsed) => by_namespace.entry(parsed.namespace.clone()).or_default().push((number, parsed)),
                    Err(error) => drop(statuses.insert(number, Err(error))),
                }
            }
            for (namespace, jobs) in by_namespace {
                let (numbers, jobs): (Vec<_>, Vec<_>) = jobs.into_iter().unzip();
                let cluster = Cluster {
                    namespace,
                    ..cluster.clone()
                };
                statuses.extend(numbers.into_iter().zip(query::statuses(&cluster, &jobs).await));
            }
            statuses.into_values().collect()
        })
    }

    fn logs<'a>(&'a self, job: &'a JobHandle, rank: u32, offset: u64) -> BoxFuture<'a, Result<LogChunk, ExecutorError>> {
        Box::pin(async move {
            let parsed = Self::parse(job)?;
            let cluster = self.cluster_of(&parsed).await?;
            let found = query::job(&cluster, &parsed).await?;
            let Some(found) = found else {
                return Err(ExecutorError::UnknownJob { job: job.clone() });
            };
            let index = rank / ranks_per_pod(&found);
            let pods = pod_states(&query::pods(&cluster, &parsed.uid).await?);
            let pods: Vec<_> = pods.into_iter().filter(|pod| pod.index == index).map(|pod| pod.name).collect();
            logs::chunk(&cluster, &pods, rank, offset).await
        })
    }

    fn results<'a>(&'a self, job: &'a JobHandle) -> BoxFuture<'a, Result<JobResults, ExecutorError>> {
        Box::pin(async move {
            let job = Self::parse(job)?;
            query::results(&self.cluster_of(&job).await?, &job).await
        })
    }

    fn cancel<'a>(&'a self, job: &'a JobHandle, signal: StopSignal) -> BoxFuture<'a, Result<(), ExecutorError>> {
        Box::pin(async move {
            let job = Self::parse(job)?;
            cancel::cancel(&self.cluster_of(&job).await?, &job, signal).await
        })
    }
}
