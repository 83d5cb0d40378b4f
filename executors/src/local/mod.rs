//! Runs a plan on this machine: one process per rank, all in one process group.
//!
//! [`LocalExecutor::submit`] starts the ranks and a task that supervises them, on the caller's tokio runtime. The state
//! of the job is in its folder (`folder.rs`), so `status`, `logs` and `cancel` work from any process. Files are read and
//! written directly, not in a thread pool: they are small, and the runtime has nothing else to do.

mod folder;
mod group;
mod leftover;
mod pause;
mod supervisor;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use neva_schemas::{LaunchPlan, PLAN_FILE, ScriptPlan, StopSignal, env};

pub use crate::job_files::rank_log;
use folder::JobFolder;
use group::Group;
pub use leftover::job_processes;
pub use pause::{continue_jobs, pause_jobs};

use crate::{
    error::ExecutorError,
    event::{JobResults, JobStatus, WatchFrom},
    executor::{BoxFuture, Executor, JobEvents, LogChunk},
    job::JobHandle,
    poll::{PollInterval, poll},
    run_folder::create_run_folder,
    submission::{JobKind, Payload, Process, Processes, Submission, script_argv, train_argv},
    topology::Topology,
    work::SCRIPT_FILE,
};

/// A job's files are local, so polling is cheap.
const WATCH: PollInterval = PollInterval {
    first: Duration::from_millis(2),
    max: Duration::from_millis(50),
    max_status: Duration::from_millis(50),
};

/// Rendezvous address of local ranks.
const MASTER_ADDR: &str = "127.0.0.1";

/// Maximum number of ranks on one machine: far more than it has GPUs, and few enough to start.
const MAX_RANKS: u32 = 1024;

/// Runs all ranks on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalExecutor {
    /// The rank program, `neva-rank` or a custom one.
    pub program: PathBuf,
    /// Time that the peers of a failed rank have to exit and record their failure, before SIGTERM.
    pub settle: Duration,
    /// Grace period after SIGTERM: time for a rank to save and exit, before SIGKILL.
    pub grace: Duration,
}

impl LocalExecutor {
    /// Creates an executor that starts `program` for each rank, with 2 s to settle and a grace period of 30 s.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
            settle: Duration::from_secs(2),
            grace: Duration::from_secs(30),
        }
    }
}

impl Executor for LocalExecutor {
    fn name(&self) -> &'static str {
        "local"
    }

    fn shares_files(&self) -> bool {
        true
    }

    fn is_this_machine(&self) -> bool {
        true
    }

    /// The rendezvous port is 0 here; a free one is chosen when the ranks start.
    fn render(&self, plan: &LaunchPlan) -> Result<Submission, ExecutorError> {
        if plan.num_nodes != 1 {
            return Err(ExecutorError::SeveralNodes {
                executor: self.name(),
                num_nodes: plan.num_nodes,
            });
        }
        let trainer = &plan.run.finetune.trainer;
        let topology = Topology::from_plan(plan).ok_or(ExecutorError::NoMesh {
            ranks: trainer.world_size(),
        })?;
        let world_size = topology.world_size();
        if world_size > MAX_RANKS {
            return Err(ExecutorError::TooManyRanks {
                world_size,
                max: MAX_RANKS,
            });
        }
        let argv = train_argv(&self.program, &plan.run_dir.join(PLAN_FILE))?;
        let process = |rank| {
            let variables = topology.rank_env(rank, MASTER_ADDR, 0).variables();
            let mut env = plan.env.clone();
            env.extend(variables.into_iter().map(|(name, value)| (name.to_owned(), value)));
            Process {
                argv: argv.clone(),
                env,
                working_directory: None,
                log: rank_log(rank),
            }
        };
        Ok(Submission {
            dir: plan.run_dir.clone(),
            files: [(PLAN_FILE.into(), serde_json::to_string_pretty(plan)? + "\n")].into(),
            payload: Payload::Processes(Processes {
                processes: (0..world_size).map(process).collect(),
                exit_timeout_s: Some(trainer.timeout_s),
            }),
            kind: JobKind::Ranks,
        })
    }

    fn render_script(&self, script: &ScriptPlan) -> Result<Submission, ExecutorError> {
        let process = Process {
            argv: script_argv(script, &script.run_dir.join(SCRIPT_FILE))?,
            env: script.env.clone(),
            working_directory: Some(script.working_directory.clone()),
            log: rank_log(0),
        };
        Ok(Submission {
            dir: script.run_dir.clone(),
            files: [(SCRIPT_FILE.into(), script.text.clone())].into(),
            payload: Payload::Processes(Processes {
                processes: vec![process],
                exit_timeout_s: None,
            }),
            kind: JobKind::Script,
        })
    }

    fn create_folder<'a>(&'a self, dir: &'a Path) -> BoxFuture<'a, Result<PathBuf, ExecutorError>> {
        Box::pin(async move { create_run_folder(dir) })
    }

    fn submit<'a>(&'a self, submission: &'a Submission) -> BoxFuture<'a, Result<JobHandle, ExecutorError>> {
        Box::pin(async move {
            let (folder, lock) = JobFolder::acquire(submission).await?;
            let failures_from = folder.files().failures_len();
            let group = Group::start(submission, free_port()?).await?;
            let supervisor = supervisor::Supervisor {
                executor: self.clone(),
                submission: submission.clone(),
                folder,
                lock,
                failures_from,
            };
            let handle = supervisor.folder.handle();
            tokio::spawn(supervisor.run(group));
            Ok(handle)
        })
    }

    fn watch<'a>(&'a self, job: &'a JobHandle, from: WatchFrom) -> JobEvents<'a> {
        poll(self, job, from, WATCH)
    }

    fn status<'a>(&'a self, job: &'a JobHandle) -> BoxFuture<'a, Result<JobStatus, ExecutorError>> {
        Box::pin(async move { JobFolder::from_handle(job)?.state().map(JobStatus::from) })
    }

    fn logs<'a>(&'a self, job: &'a JobHandle, rank: u32, offset: u64) -> BoxFuture<'a, Result<LogChunk, ExecutorError>> {
        Box::pin(async move { JobFolder::from_handle(job)?.files().logs(rank, offset) })
    }

    fn results<'a>(&'a self, job: &'a JobHandle) -> BoxFuture<'a, Result<JobResults, ExecutorError>> {
        Box::pin(async move { JobResults::read(JobFolder::from_handle(job)?.dir()) })
    }

    fn cancel<'a>(&'a self, job: &'a JobHandle, signal: StopSignal) -> BoxFuture<'a, Result<(), ExecutorError>> {
        Box::pin(async move { JobFolder::from_handle(job)?.request_cancel(signal).await })
    }
}

/// Variables that a rank must not inherit: torchrun's agent serves another world.
const NOT_INHERITED: &[&str] = &[env::TORCHELASTIC_USE_AGENT_STORE, env::TORCHELASTIC_RESTART_COUNT];

/// Returns a port that was free a moment ago. If another process takes it before rank 0, the job is started once more.
pub(crate) fn free_port() -> Result<u16, ExecutorError> {
    let bound = std::net::TcpListener::bind((MASTER_ADDR, 0)).and_then(|listener| listener.local_addr());
    bound.map(|address| address.port()).map_err(|source| ExecutorError::NoFreePort {
        address: MASTER_ADDR,
        source,
    })
}
