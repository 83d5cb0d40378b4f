//! Runs a plan as a job of a Kubernetes cluster.

mod names;
pub mod render;

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
};

use neva_schemas::{KubernetesExecutorConfig, LaunchPlan, ScriptPlan, StopSignal};

use crate::{
    error::ExecutorError,
    event::{JobResults, JobStatus, WatchFrom},
    executor::{BoxFuture, Executor, JobEvents, LogChunk},
    job::JobHandle,
    poll::{PollInterval, poll},
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
}

impl KubernetesExecutor {
    /// Creates an executor. It connects to the cluster with its first request.
    pub fn new(config: KubernetesExecutorConfig) -> Self {
        Self {
            environment: BTreeMap::new(),
            runs: config.runs_dir().unwrap_or(render::RUNS).into(),
            config,
        }
    }
}

impl KubernetesExecutor {
    /// Passes these variables of the launcher to jobs, in a Secret.
    #[must_use]
    pub fn environment(mut self, variables: BTreeMap<String, String>) -> Self {
        self.environment = variables;
        self
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

fn not_yet() -> ExecutorError {
    ExecutorError::Refused {
        message: "the Kubernetes executor renders only".into(),
        help: "use `neva-run render`".into(),
    }
}

impl Executor for KubernetesExecutor {
    fn name(&self) -> &'static str {
        "kubernetes"
    }

    fn runs_folder(&self) -> Option<&Path> {
        Some(&self.runs)
    }

    fn paths_folder(&self, _: &Path) -> Option<PathBuf> {
        Some(self.runs.clone())
    }

    fn render(&self, plan: &LaunchPlan) -> Result<Submission, ExecutorError> {
        render::render(&self.config, plan)
    }

    fn render_script(&self, script: &ScriptPlan) -> Result<Submission, ExecutorError> {
        render::render_script(&self.config, script)
    }

    fn create_folder<'a>(&'a self, _: &'a Path) -> BoxFuture<'a, Result<PathBuf, ExecutorError>> {
        Box::pin(async { Err(not_yet()) })
    }

    fn submit<'a>(&'a self, _: &'a Submission) -> BoxFuture<'a, Result<JobHandle, ExecutorError>> {
        Box::pin(async { Err(not_yet()) })
    }

    fn watch<'a>(&'a self, job: &'a JobHandle, from: WatchFrom) -> JobEvents<'a> {
        let second = std::time::Duration::from_secs(1);
        poll(self, job, from, PollInterval { first: second, max: second, max_status: second })
    }

    fn status<'a>(&'a self, _: &'a JobHandle) -> BoxFuture<'a, Result<JobStatus, ExecutorError>> {
        Box::pin(async { Err(not_yet()) })
    }

    fn logs<'a>(&'a self, _: &'a JobHandle, _: u32, _: u64) -> BoxFuture<'a, Result<LogChunk, ExecutorError>> {
        Box::pin(async { Err(not_yet()) })
    }

    fn results<'a>(&'a self, _: &'a JobHandle) -> BoxFuture<'a, Result<JobResults, ExecutorError>> {
        Box::pin(async { Err(not_yet()) })
    }

    fn cancel<'a>(&'a self, _: &'a JobHandle, _: StopSignal) -> BoxFuture<'a, Result<(), ExecutorError>> {
        Box::pin(async { Err(not_yet()) })
    }
}
