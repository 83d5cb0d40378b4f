//! Executor configs: the contents of executor files and of `executors` in workspace files.

use crate::docker::DockerExecutorConfig;
use crate::kubernetes::KubernetesExecutorConfig;
use crate::slurm::SlurmExecutorConfig;
use crate::text_schema::text_map;
use crate::validate::{Problem, Validate, field};
use crate::variable::{validate_variable, variable_name_error};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Config of an executor, chosen by `_target_`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename = "Executor")]
pub enum ExecutorConfig {
    /// Processes on this machine.
    #[serde(rename = "run.LocalExecutor")]
    Local(LocalExecutorConfig),
    /// A container on this machine.
    #[serde(rename = "run.DockerExecutor")]
    Docker(Box<DockerExecutorConfig>),
    /// A job of a Slurm cluster.
    #[serde(rename = "run.SlurmExecutor")]
    Slurm(Box<SlurmExecutorConfig>),
    /// A job of a Kubernetes cluster.
    #[serde(rename = "run.KubernetesExecutor")]
    Kubernetes(Box<KubernetesExecutorConfig>),
}

impl Default for ExecutorConfig {
    fn default() -> Self {
        Self::Local(LocalExecutorConfig::default())
    }
}

impl ExecutorConfig {
    /// Returns the additional environment of the job's processes.
    pub fn env_vars(&self) -> &BTreeMap<String, String> {
        match self {
            Self::Local(local) => &local.env_vars,
            Self::Docker(docker) => &docker.env_vars,
            Self::Slurm(slurm) => &slurm.env_vars,
            Self::Kubernetes(kubernetes) => &kubernetes.env_vars,
        }
    }

    /// Returns the names of variables that are passed on from the launcher's environment.
    pub fn env_from(&self) -> &[String] {
        match self {
            Self::Local(local) => &local.env_from,
            Self::Docker(docker) => &docker.env_from,
            Self::Slurm(slurm) => &slurm.env_from,
            Self::Kubernetes(kubernetes) => &kubernetes.env_from,
        }
    }

    /// Returns the maximum number of retries.
    pub fn retries(&self) -> u32 {
        match self {
            Self::Local(local) => local.retries,
            Self::Docker(docker) => docker.retries,
            Self::Slurm(slurm) => slurm.retries,
            Self::Kubernetes(kubernetes) => kubernetes.retries,
        }
    }

    /// Returns the maximum number of retries that the launcher makes itself. A Slurm job requeues itself, and a
    /// Kubernetes job restarts its pods.
    pub fn launcher_retries(&self) -> u32 {
        match self {
            Self::Local(local) => local.retries,
            Self::Docker(docker) => docker.retries,
            Self::Slurm(_) | Self::Kubernetes(_) => 0,
        }
    }

    /// Returns true if jobs of both are in one queue, so that one can wait for another.
    pub fn same_queue(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Slurm(one), Self::Slurm(other)) => one.tunnel == other.tunnel,
            _ => false,
        }
    }

    /// Returns true if tasks of both can be tasks of one job: what holds for a whole job is the same.
    pub fn can_share_job(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Slurm(one), Self::Slurm(other)) => one.can_share_job(other),
            _ => false,
        }
    }

    /// Returns the settings of a task that is a job of its own: without those that hold for jobs of several tasks. A cap
    /// belongs to the array of a sweep, components to a group.
    #[must_use]
    pub fn without_task_sets(&self, is_sweep: bool, is_group: bool) -> Self {
        let mut config = self.clone();
        if let Self::Slurm(slurm) = &mut config {
            if is_sweep && slurm.array_cap().is_some() {
                slurm.array = None;
            }
            if is_group {
                slurm.heterogeneous = false;
                slurm.het_group_indices = None;
            }
        }
        config
    }

    /// Sets the maximum number of retries.
    pub fn set_retries(&mut self, retries: u32) {
        match self {
            Self::Local(local) => local.retries = retries,
            Self::Docker(docker) => docker.retries = retries,
            Self::Slurm(slurm) => slurm.retries = retries,
            Self::Kubernetes(kubernetes) => kubernetes.retries = retries,
        }
    }
}

impl Validate for ExecutorConfig {
    fn validate(&self, path: &str, problems: &mut Vec<Problem>) {
        match self {
            Self::Local(local) => local.validate(path, problems),
            Self::Docker(docker) => docker.validate(path, problems),
            Self::Slurm(slurm) => slurm.validate(path, problems),
            Self::Kubernetes(kubernetes) => kubernetes.validate(path, problems),
        }
    }
}

/// Starts a process for each rank on this machine: NeMo-Run's `LocalExecutor`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename = "LocalExecutor", deny_unknown_fields, default)]
pub struct LocalExecutorConfig {
    /// Environment variables of the job's processes. Names are case-sensitive; values may hold any character. They are
    /// stored in the launch plan, so use `env_from` for secrets.
    #[schemars(schema_with = "text_map")]
    pub env_vars: BTreeMap<String, String>,
    /// Names of variables passed on from the environment of the launcher. Their values are never written to disk, so
    /// use this for tokens and passwords.
    pub env_from: Vec<String>,
    /// Maximum number of retries of a failed job, each from the last checkpoint. Wrong input and bugs are not retried.
    pub retries: u32,
    /// Seconds that the peers of a failed rank have to exit and record their failure, before SIGTERM.
    #[schemars(range(max = 86400))]
    pub settle_s: u64,
    /// Grace period in seconds after SIGTERM: time for a rank to save a checkpoint and exit, before SIGKILL.
    #[schemars(range(max = 86400))]
    pub grace_s: u64,
}

impl Default for LocalExecutorConfig {
    fn default() -> Self {
        Self {
            env_vars: BTreeMap::new(),
            env_from: Vec::new(),
            retries: 0,
            settle_s: 2,
            grace_s: 30,
        }
    }
}

/// Maximum wait for ranks to exit, in seconds: a day.
const MAX_WAIT_S: u64 = 86_400;

impl Validate for LocalExecutorConfig {
    fn validate(&self, path: &str, problems: &mut Vec<Problem>) {
        let field = |name: &str| field(path, name);
        for (name, value) in [("settle_s", self.settle_s), ("grace_s", self.grace_s)] {
            if value > MAX_WAIT_S {
                problems.push(Problem::error(
                    field(name),
                    format!("`{name}` {value} is longer than a day ({MAX_WAIT_S} seconds)"),
                ));
            }
        }
        for (name, value) in &self.env_vars {
            validate_variable(&field("env_vars"), name, value, problems);
        }
        for (index, name) in self.env_from.iter().enumerate() {
            let path = format!("{}[{index}]", field("env_from"));
            problems.extend(variable_name_error(name).map(|message| Problem::error(path, message)));
        }
    }
}
