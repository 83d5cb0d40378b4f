//! Runs a plan in a container on this machine, through the API socket of Docker or Podman.
//!
//! All ranks of a job run in one container. Its first process is a script that the submission contains (`script`); the
//! request that creates the container is pure, too (`request`). The container's name is made from the job's folder, so a
//! folder has one container, and a later launcher finds it. The state of a job is the container's, and files in its folder:
//!
//! | file | by | holds |
//! |---|---|---|
//! | `plan.json`, `container.sh` | `submit` | the plan, the script |
//! | `container.json` | `submit` | the container's name, the kind of the job, the length of `failures.jsonl` |
//! | `container.lock` | `submit` | locked during a submission |
//! | `container.env` | `submit` | a pipe for the values of `env_from`, gone when they were read |
//! | `container.exits` | the script | exits of the ranks, `end` last |
//! | `cancel` | `cancel` | a line for each request to stop |
//! | `logs/rank<R>.log`, `logs/container.log` | the script | output of the ranks, and of the script itself |
//! | `failures.jsonl`, `report.json`, `checkpoints/` | ranks | as for the local executor |

mod api;
mod folder;
mod image;
mod inspect;
mod kwargs;
mod refusal;
mod request;
mod script;
mod socket;
mod state;
mod submit;
mod variables;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use neva_schemas::{Accelerator, DockerExecutorConfig, LaunchPlan, PackagerConfig, ScriptPlan, StopSignal, Volume};
use serde_json::json;
use sha1::{Digest as _, Sha1};

pub use api::{Runtime, RuntimeVersion};
pub use inspect::{Container, ContainerState};
pub use socket::default_socket;

use crate::{
    error::ExecutorError,
    event::{JobResults, JobStatus, WatchFrom},
    executor::{BoxFuture, Executor, JobEvents, LogChunk},
    job::JobHandle,
    local::LocalExecutor,
    packager::CODE_FOLDER,
    poll::{PollInterval, poll},
    run_folder::create_run_folder,
    submission::{Manifests, Payload, Processes, Submission},
};

/// Shell of the image that runs the job's script.
pub const SHELL: &str = "/bin/sh";

/// Pauses of a watch. The API is on this machine.
const WATCH: PollInterval = PollInterval {
    first: Duration::from_millis(50),
    max: Duration::from_millis(500),
    max_status: Duration::from_secs(1),
};

/// Runs jobs in containers.
#[derive(Debug, Clone)]
pub struct DockerExecutor {
    /// Settings.
    pub config: DockerExecutorConfig,
    /// Path of the API's socket.
    pub socket: PathBuf,
    /// User of the processes, as `1000:1000`.
    pub user: String,
    /// Name of the rank program in the image, if the settings name none.
    pub program: PathBuf,
    /// Variables of the launcher that jobs receive and no file shows.
    pub environment: BTreeMap<String, String>,
    /// Folder of the launcher, from which code is packed.
    pub folder: PathBuf,
}

impl DockerExecutor {
    /// Creates an executor that uses the API at `socket`; processes run as `user`.
    pub fn new(config: DockerExecutorConfig, socket: impl Into<PathBuf>, user: impl Into<String>) -> Self {
        Self {
            user: config.user.clone().unwrap_or_else(|| user.into()),
            config,
            socket: socket.into(),
            program: "neva-rank".into(),
            environment: BTreeMap::new(),
            folder: PathBuf::new(),
        }
    }

    /// Returns the container runtime.
    pub fn runtime(&self) -> Runtime {
        Runtime::new(&self.socket)
    }

    /// Returns the request of a container with the settings of this executor, and without a job.
    ///
    /// # Errors
    /// The settings name a field that the API does not have.
    pub fn probe(&self) -> Result<serde_json::Value, ExecutorError> {
        request::probe(&self.config, &self.user)
    }

    /// Returns true if the job has packaged code.
    fn has_code(&self) -> bool {
        !matches!(&self.config.packager, PackagerConfig::None(none) if none.symlink_from_remote_dir.is_none())
    }

    /// Returns the processes that the local executor would start, with the rank program of the image.
    fn local(&self) -> LocalExecutor {
        LocalExecutor::new(script::program(&self.config, &self.program))
    }

    /// Replaces the processes of the local executor by a container that starts them.
    fn contain(&self, name: &str, gpus: u32, mut submission: Submission) -> Result<Submission, ExecutorError> {
        let Payload::Processes(Processes { processes, exit_timeout_s }) = &submission.payload else {
            return Ok(submission);
        };
        let Some(process) = processes.first() else {
            return Err(ExecutorError::NoMesh { ranks: 0 });
        };
        let work = script::Work {
            dir: &submission.dir,
            processes,
            kind: submission.kind,
            exit_timeout_s: *exit_timeout_s,
        };
        let text = script::render(&self.config, &work);
        let body = request::body(&request::Job {
            config: &self.config,
            user: &self.user,
            dir: &submission.dir,
            name,
            process,
            gpus,
        })?;
        let manifest = json!({ "name": container_name(name, &submission.dir), "create": body });
        submission.files.insert(script::SCRIPT_FILE.into(), text);
        submission.payload = Payload::Manifests(Manifests { manifests: vec![manifest] });
        Ok(submission)
    }

    /// Checks that the settings fit the run.
    fn check(&self, plan: &LaunchPlan) -> Result<(), ExecutorError> {
        let ranks = plan.ranks_per_node;
        if let Some(tasks) = self.config.ntasks_per_node.filter(|tasks| *tasks != ranks) {
            return Err(ExecutorError::Refused {
                message: format!("`executor.ntasks_per_node` is {tasks}, but the run has {ranks} ranks"),
                help: format!("remove `ntasks_per_node` from the executor, or add `--set num_gpus_per_node={tasks}`"),
            });
        }
        let uses_gpus = plan.run.finetune.trainer.accelerator == Accelerator::Gpu;
        if let Some(gpus) = self
            .config
            .num_gpus
            .filter(|gpus| uses_gpus && (0..i64::from(ranks)).contains(gpus))
        {
            return Err(ExecutorError::Refused {
                message: format!("the run has {ranks} ranks, but the executor requests {gpus} GPUs"),
                help: format!("add `--set executor.num_gpus={ranks}`, or `--set num_gpus_per_node={gpus}`"),
            });
        }
        Ok(())
    }
}

impl Executor for DockerExecutor {
    fn name(&self) -> &'static str {
        "docker"
    }

    /// Where a mount has another path in the container, the launcher cannot check the paths of a run.
    fn shares_files(&self) -> bool {
        let mounts = self.config.volumes.iter().filter_map(|text| Volume::parse(text).ok());
        mounts.into_iter().all(|mount| mount.keeps_path())
    }

    fn is_this_machine(&self) -> bool {
        true
    }

    fn paths_folder(&self, dir: &Path) -> Option<PathBuf> {
        self.has_code().then(|| dir.join(CODE_FOLDER))
    }

    fn render(&self, plan: &LaunchPlan) -> Result<Submission, ExecutorError> {
        if plan.num_nodes != 1 {
            return Err(ExecutorError::SeveralNodes {
                executor: self.name(),
                num_nodes: plan.num_nodes,
            });
        }
        self.check(plan)?;
        let uses_gpus = plan.run.finetune.trainer.accelerator == Accelerator::Gpu;
        let gpus = if uses_gpus { plan.ranks_per_node } else { 0 };
        self.contain(&plan.name, gpus, self.local().render(plan)?)
    }

    fn render_script(&self, script: &ScriptPlan) -> Result<Submission, ExecutorError> {
        let mut script = script.clone();
        if self.has_code() {
            script.working_directory = script.run_dir.join(CODE_FOLDER);
        }
        self.contain(&script.name, 0, self.local().render_script(&script)?)
    }

    fn create_folder<'a>(&'a self, dir: &'a Path) -> BoxFuture<'a, Result<PathBuf, ExecutorError>> {
        Box::pin(async move { create_run_folder(dir) })
    }

    fn submit<'a>(&'a self, submission: &'a Submission) -> BoxFuture<'a, Result<JobHandle, ExecutorError>> {
        Box::pin(submit::submit(self, submission))
    }

    fn watch<'a>(&'a self, job: &'a JobHandle, from: WatchFrom) -> JobEvents<'a> {
        poll(self, job, from, WATCH)
    }

    fn status<'a>(&'a self, job: &'a JobHandle) -> BoxFuture<'a, Result<JobStatus, ExecutorError>> {
        Box::pin(async move { state::status(&self.runtime(), &folder::JobFolder::open(job)?).await })
    }

    fn logs<'a>(&'a self, job: &'a JobHandle, rank: u32, offset: u64) -> BoxFuture<'a, Result<LogChunk, ExecutorError>> {
        Box::pin(async move { folder::JobFolder::open(job)?.files.logs(rank, offset) })
    }

    fn results<'a>(&'a self, job: &'a JobHandle) -> BoxFuture<'a, Result<JobResults, ExecutorError>> {
        Box::pin(async move { JobResults::read(folder::JobFolder::open(job)?.files.dir()) })
    }

    fn cancel<'a>(&'a self, job: &'a JobHandle, signal: StopSignal) -> BoxFuture<'a, Result<(), ExecutorError>> {
        Box::pin(async move { state::cancel(&self.runtime(), &folder::JobFolder::open(job)?, signal).await })
    }
}

/// Returns the container's name: that of the run, and a hash of the job's folder.
fn container_name(name: &str, dir: &Path) -> String {
    const LENGTH: usize = 40;
    let allowed = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' };
    let name: String = name.chars().map(allowed).take(LENGTH).collect();
    let hash = Sha1::digest(dir.as_os_str().as_encoded_bytes());
    let hash: String = hash.iter().take(5).map(|byte| format!("{byte:02x}")).collect();
    format!("neva-run-{name}-{hash}")
}
