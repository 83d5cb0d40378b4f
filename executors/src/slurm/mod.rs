//! Runs a plan as a job of a Slurm cluster.
//!
//! [`render`] makes the batch script, without I/O. The [`Tunnel`] runs Slurm's programs where they are: on this machine, or
//! over SSH on a login node. The state of a job is Slurm's own, and files in the job's folder:
//!
//! | file | by | holds |
//! |---|---|---|
//! | `plan.json`, `job.sbatch` | `submit` | the plan, the batch script |
//! | `slurm.job` | `submit` | number, kind and key of the folder's job |
//! | `slurm.status` | the batch script | number, requeues and exit code, for when the controller has forgotten the job |
//! | `slurm.lock` | `submit` | locked during a submission |
//! | `slurm.submitting` | `submit` | key of a submission whose end is not known |
//! | `cancel` | `cancel` | a line for each request to stop |
//! | `logs/rank<R>.log` | srun | output of a rank; a requeue appends |
//! | `logs/slurm.log` | sbatch | output of the batch script; a requeue appends |
//! | `logs/attempt-<N>/` | `submit` | logs of earlier jobs in the folder |
//! | `failures.jsonl`, `report.json`, `checkpoints/` | ranks | as for the local executor |

mod batch_failure;
mod command;
mod evidence;
mod executor;
mod exits;
mod files;
mod handle;
mod joined_reads;
mod nodes;
mod prepare;
mod query;
mod queue;
mod recent;
mod refusal;
pub mod render;
mod results;
mod state;
mod submit;
mod submit_command;
mod submit_timeout;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use neva_schemas::{PackagerConfig, SlurmExecutorConfig};

pub use handle::job_number;
pub use joined_reads::JoinedReads;
pub use recent::Recent;

use self::handle::SlurmJob;
use crate::{
    error::ExecutorError, event::JobStatus, executor::Executor as _, job::JobHandle, packager::pack, poll::PollInterval,
    submission::Submission, tunnel::Tunnel,
};

/// Folder of packed code in the folder of runs.
const ARCHIVES: &str = ".neva-run/archives";

/// Pause after the first poll of a job.
const FIRST_POLL: Duration = Duration::from_millis(200);
/// Longest pause between two reads of the output, which does not ask the controller.
const OUTPUT_POLL: Duration = Duration::from_secs(1);

/// Submits jobs to Slurm.
#[derive(Debug, Clone)]
pub struct SlurmExecutor {
    /// Settings.
    pub config: SlurmExecutorConfig,
    /// Way to the machine that submits jobs.
    pub tunnel: Arc<dyn Tunnel>,
    /// The rank program, as seen by the nodes.
    pub program: PathBuf,
    /// Variables of the launcher that jobs receive and no file shows.
    pub environment: BTreeMap<String, String>,
    /// Folder of the launcher, from which code is packed.
    pub folder: PathBuf,
    /// The rank program on this machine, if it is uploaded to [`Self::program`].
    pub upload: Option<PathBuf>,
    /// Jobs are submitted on this machine, which sees the files of the nodes.
    pub is_here: bool,
    /// Time for which a submission waits for a controller that cannot be reached.
    pub submit_timeout: Duration,
    /// States of the watched jobs of this executor, which share their queries.
    pub recent: Arc<Recent>,
    /// Reads of files of jobs, several of which are one command.
    pub reads: Arc<JoinedReads>,
}

impl SlurmExecutor {
    /// Creates an executor that submits jobs through `tunnel`; nodes start `program` for each rank.
    pub fn new(config: SlurmExecutorConfig, tunnel: Arc<dyn Tunnel>, program: impl Into<PathBuf>) -> Self {
        Self {
            config,
            tunnel,
            program: program.into(),
            environment: BTreeMap::new(),
            folder: PathBuf::new(),
            upload: None,
            is_here: false,
            submit_timeout: Duration::from_secs(600),
            recent: Arc::default(),
            reads: Arc::default(),
        }
    }

    /// Returns the place in handles; empty for this machine.
    fn place(&self) -> String {
        if self.is_here { String::new() } else { self.tunnel.place() }
    }

    fn job(&self, id: &str, dir: &Path) -> SlurmJob {
        SlurmJob {
            place: self.place(),
            id: id.to_owned(),
            dir: dir.to_owned(),
        }
    }

    fn parse(&self, job: &JobHandle) -> Result<SlurmJob, ExecutorError> {
        query::parse(job, &self.place())
    }

    fn interval(&self) -> PollInterval {
        PollInterval {
            first: FIRST_POLL,
            max: OUTPUT_POLL,
            max_status: Duration::from_secs(self.config.status_interval_s.max(1)),
        }
    }

    async fn one_status(&self, job: &JobHandle) -> Result<JobStatus, ExecutorError> {
        let parsed = self.parse(job)?;
        let mut statuses = query::statuses(&*self.tunnel, &[parsed]).await;
        statuses
            .pop()
            .unwrap_or_else(|| Err(ExecutorError::UnknownJob { job: job.clone() }))
    }

    /// Returns true if the job has packaged code.
    fn has_code(&self) -> bool {
        !matches!(&self.config.packager, PackagerConfig::None(none) if none.symlink_from_remote_dir.is_none())
    }

    /// Copies what the job needs to the machine.
    async fn ship(&self, submission: &Submission) -> Result<(), ExecutorError> {
        if let Some(program) = self.upload.as_ref().filter(|_| submission.has_ranks()) {
            self.tunnel.upload(program, &self.program).await?;
        }
        if let Some(package) = pack(&self.config.packager, &self.folder).await? {
            for warning in package.warnings() {
                tracing::warn!("{warning}");
            }
            let beside = submission.dir.parent().unwrap_or(&submission.dir);
            let archives = self.runs_folder().unwrap_or(beside).join(ARCHIVES);
            package.send(&*self.tunnel, &submission.dir, &archives).await?;
        }
        Ok(())
    }
}
