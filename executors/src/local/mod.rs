//! Runs a plan on this machine: one process per rank, all in one process group.
//!
//! [`LocalExecutor::submit`] starts the ranks and a task that supervises them, on the caller's tokio
//! runtime. What there is to know of the job lies in its folder (`folder.rs`), so that `state`, `logs` and
//! `cancel` work from any process. Files are read and written in place, not through a thread pool: they
//! are small, and the runtime has nothing else to do.

mod folder;
mod group;
mod leftover;
mod supervisor;

use std::{path::PathBuf, time::Duration};

use neva_schemas::{LaunchPlan, PLAN_FILE, ScriptPlan, env};

use folder::JobFolder;
pub use folder::rank_log;
use group::Group;

use crate::{
    error::ExecutorError,
    executor::{BoxFuture, Executor, JobHandle, JobState, LogChunk},
    submission::{JobKind, Process, Submission, script_argv, train_argv},
    topology::Topology,
};

/// File in a script's folder that holds its text.
const SCRIPT_FILE: &str = "script";

/// The address at which local ranks meet.
const MASTER_ADDR: &str = "127.0.0.1";

/// Most ranks on one machine: far more than it has GPUs, and few enough to start.
const MOST_RANKS: u32 = 1024;

/// Runs all ranks on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalExecutor {
    /// The rank program, `neva-rank` or an own one.
    pub program: PathBuf,
    /// How long the peers of a failed rank have to end by themselves and tell why, before SIGTERM.
    pub settle: Duration,
    /// How long after SIGTERM a rank has to save and leave, before SIGKILL.
    pub grace: Duration,
}

impl LocalExecutor {
    /// Starts `program` for each rank, with 2 s to settle and 30 s of grace: ranks save a checkpoint on SIGTERM.
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

    /// The port at which ranks meet is 0 here: a free one is taken when they start.
    fn render(&self, plan: &LaunchPlan) -> Result<Submission, ExecutorError> {
        if plan.num_nodes != 1 {
            return Err(ExecutorError::SeveralNodes {
                executor: self.name(),
                num_nodes: plan.num_nodes,
            });
        }
        let trainer = &plan.run.finetune.trainer;
        let topology = Topology::of(plan).ok_or(ExecutorError::NoMesh {
            ranks: trainer.world_size(),
        })?;
        let world_size = topology.world_size();
        if world_size > MOST_RANKS {
            return Err(ExecutorError::TooManyRanks {
                world_size,
                most: MOST_RANKS,
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
            processes: (0..world_size).map(process).collect(),
            kind: JobKind::Ranks,
            patience_s: Some(trainer.timeout_s),
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
            processes: vec![process],
            kind: JobKind::Script,
            patience_s: None,
        })
    }

    fn submit<'a>(&'a self, submission: &'a Submission) -> BoxFuture<'a, Result<JobHandle, ExecutorError>> {
        Box::pin(async move {
            let (folder, lock) = JobFolder::take(submission).await?;
            let failures_from = folder.failures_len();
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

    fn state<'a>(&'a self, job: &'a JobHandle) -> BoxFuture<'a, Result<JobState, ExecutorError>> {
        Box::pin(async move { JobFolder::of(job)?.state() })
    }

    fn logs<'a>(&'a self, job: &'a JobHandle, rank: u32, offset: u64) -> BoxFuture<'a, Result<LogChunk, ExecutorError>> {
        Box::pin(async move { JobFolder::of(job)?.logs(rank, offset) })
    }

    fn cancel<'a>(&'a self, job: &'a JobHandle) -> BoxFuture<'a, Result<(), ExecutorError>> {
        Box::pin(async move { JobFolder::of(job)?.request_cancel().await })
    }
}

/// The environment that a rank must not inherit: torchrun's agent serves another world.
const FOREIGN: &[&str] = &[env::TORCHELASTIC_USE_AGENT_STORE, env::TORCHELASTIC_RESTART_COUNT];

/// A port that was free a moment ago. Whoever takes it before rank 0 does costs a second attempt.
fn free_port() -> Result<u16, ExecutorError> {
    let bound = std::net::TcpListener::bind((MASTER_ADDR, 0)).and_then(|listener| listener.local_addr());
    bound.map(|address| address.port()).map_err(|source| ExecutorError::NoFreePort {
        address: MASTER_ADDR,
        source,
    })
}
