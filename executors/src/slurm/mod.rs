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

mod command;
mod evidence;
mod exits;
mod files;
mod handle;
mod nodes;
mod query;
mod queue;
mod recent;
mod refusal;
pub mod render;
mod results;
mod state;
mod submit;
mod submit_timeout;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use neva_schemas::{LaunchPlan, PackagerConfig, ScriptPlan, SlurmExecutorConfig, StopSignal, When};

pub use handle::job_number;
pub use recent::Recent;

use self::{
    command::script,
    files::{Part, read},
    handle::SlurmJob,
};
use crate::{
    error::ExecutorError,
    event::{JobResults, JobStatus, WatchFrom},
    executor::{BoxFuture, Executor, JobEvents, LogChunk},
    job::JobHandle,
    local::rank_log,
    packager::{CODE_FOLDER, pack},
    poll::{PollInterval, poll},
    submission::Submission,
    task_set::TaskSet,
    tunnel::Tunnel,
};

/// Folder of packed code in the folder of runs.
const ARCHIVES: &str = ".neva-run/archives";

const CANCEL: &str = include_str!("scripts/cancel.sh");

/// Maximum number of bytes of a log that are read at once.
const CHUNK: u64 = 64 << 10;

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
    /// Answers of the controller that the jobs of this executor share.
    pub recent: Arc<Recent>,
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

impl Executor for SlurmExecutor {
    fn name(&self) -> &'static str {
        "slurm"
    }

    fn shares_files(&self) -> bool {
        self.is_here
    }

    fn runs_folder(&self) -> Option<&Path> {
        self.config.tunnel.job_dir().map(PathBuf::as_path)
    }

    fn paths_folder(&self, dir: &Path) -> Option<PathBuf> {
        if self.has_code() {
            Some(dir.join(CODE_FOLDER))
        } else if self.is_here {
            None
        } else {
            self.runs_folder().map(Path::to_owned)
        }
    }

    fn render(&self, plan: &LaunchPlan) -> Result<Submission, ExecutorError> {
        render::render(&self.config, plan, &self.program)
    }

    fn render_script(&self, script: &ScriptPlan) -> Result<Submission, ExecutorError> {
        render::render_script(&self.config, script)
    }

    fn create_folder<'a>(&'a self, dir: &'a Path) -> BoxFuture<'a, Result<PathBuf, ExecutorError>> {
        Box::pin(submit::create_folder(self, dir))
    }

    fn submit<'a>(&'a self, submission: &'a Submission) -> BoxFuture<'a, Result<JobHandle, ExecutorError>> {
        Box::pin(submit::submit(self, submission, &[]))
    }

    fn queues(&self) -> bool {
        true
    }

    fn submit_after<'a>(
        &'a self,
        submission: &'a Submission,
        after: &'a [(JobHandle, When)],
    ) -> BoxFuture<'a, Result<JobHandle, ExecutorError>> {
        Box::pin(submit::submit(self, submission, after))
    }

    fn joins_tasks(&self) -> bool {
        true
    }

    fn render_tasks(&self, tasks: &TaskSet<'_>) -> Result<Submission, ExecutorError> {
        render::render_tasks(&self.config, tasks, &self.program)
    }

    fn submit_tasks<'a>(
        &'a self,
        submission: &'a Submission,
        after: &'a [(JobHandle, When)],
    ) -> BoxFuture<'a, Result<Vec<JobHandle>, ExecutorError>> {
        Box::pin(submit::submit_tasks(self, submission, after))
    }

    fn find_job<'a>(&'a self, dir: &'a Path) -> BoxFuture<'a, Result<Option<JobHandle>, ExecutorError>> {
        Box::pin(submit::find_job(self, dir))
    }

    fn watch<'a>(&'a self, job: &'a JobHandle, from: WatchFrom) -> JobEvents<'a> {
        poll(self, job, from, self.interval())
    }

    fn status<'a>(&'a self, job: &'a JobHandle) -> BoxFuture<'a, Result<JobStatus, ExecutorError>> {
        Box::pin(self.one_status(job))
    }

    fn watched_status<'a>(&'a self, job: &'a JobHandle) -> BoxFuture<'a, Result<JobStatus, ExecutorError>> {
        Box::pin(async move {
            let job = self.parse(job)?;
            let rows = self.recent.rows(&*self.tunnel, job.slurm_id()).await?;
            query::status(&*self.tunnel, &job, rows.to_vec()).await
        })
    }

    fn statuses<'a>(&'a self, jobs: &'a [JobHandle]) -> BoxFuture<'a, Vec<Result<JobStatus, ExecutorError>>> {
        Box::pin(async move {
            let parsed: Vec<_> = jobs.iter().map(|job| self.parse(job)).collect();
            let own: Vec<_> = parsed.iter().filter_map(|job| job.as_ref().ok().cloned()).collect();
            let mut statuses = query::statuses(&*self.tunnel, &own).await.into_iter();
            let unknown = |job: &JobHandle| ExecutorError::UnknownJob { job: job.clone() };
            let status = |(job, parsed): (&JobHandle, Result<SlurmJob, ExecutorError>)| match parsed {
                Ok(_) => statuses.next().unwrap_or_else(|| Err(unknown(job))),
                Err(error) => Err(error),
            };
            jobs.iter().zip(parsed).map(status).collect()
        })
    }

    fn logs<'a>(&'a self, job: &'a JobHandle, rank: u32, offset: u64) -> BoxFuture<'a, Result<LogChunk, ExecutorError>> {
        Box::pin(async move {
            let file = self.parse(job)?.file(rank_log(rank));
            let bytes = self.tunnel.read(&file, offset, CHUNK).await?.unwrap_or_default();
            let next = offset + bytes.len() as u64;
            Ok(LogChunk { bytes, next })
        })
    }

    /// Reads the output of many ranks in one command.
    fn output<'a>(
        &'a self,
        job: &'a JobHandle,
        from: &'a BTreeMap<u32, u64>,
    ) -> BoxFuture<'a, Result<BTreeMap<u32, LogChunk>, ExecutorError>> {
        Box::pin(async move {
            let parsed = self.parse(job)?;
            let mut chunks = BTreeMap::new();
            // Reading files on this machine costs less than a command.
            if self.is_here || from.len() < 2 {
                for (rank, offset) in from {
                    chunks.insert(*rank, self.logs(job, *rank, *offset).await?);
                }
                return Ok(chunks);
            }
            let request = |(rank, offset): (&u32, &u64)| (Part::From(*offset, CHUNK), parsed.file(rank_log(*rank)));
            let requests: Vec<_> = from.iter().map(request).collect();
            for part in read(&*self.tunnel, &requests).await? {
                if let Some((rank, offset)) = from.iter().nth(part.request) {
                    let next = offset + part.bytes.len() as u64;
                    chunks.insert(*rank, LogChunk { bytes: part.bytes, next });
                }
            }
            Ok(chunks)
        })
    }

    fn results<'a>(&'a self, job: &'a JobHandle) -> BoxFuture<'a, Result<JobResults, ExecutorError>> {
        Box::pin(async move { results::results(&*self.tunnel, &self.parse(job)?).await })
    }

    fn cancel<'a>(&'a self, job: &'a JobHandle, signal: StopSignal) -> BoxFuture<'a, Result<(), ExecutorError>> {
        Box::pin(async move {
            let job = self.parse(job)?;
            let signal = signal.name().trim_start_matches("SIG").to_owned();
            let cancel = script(CANCEL, [job.dir.display().to_string(), job.id.clone(), signal]);
            command::run(&*self.tunnel, &cancel).await.map(drop)
        })
    }
}
