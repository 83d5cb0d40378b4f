//! The executor trait for Slurm.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use neva_schemas::{LaunchPlan, ScriptPlan, StopSignal, When};

use super::{SlurmExecutor, command, command::script, files::Part, handle::SlurmJob, prepare, query, render, results, submit};
use crate::{
    error::ExecutorError,
    event::{JobResults, JobStatus, WatchFrom},
    executor::{BoxFuture, Executor, JobEvents, LogChunk},
    job::JobHandle,
    local::rank_log,
    packager::CODE_FOLDER,
    poll::poll,
    submission::Submission,
    task_set::TaskSet,
};

const CANCEL: &str = include_str!("scripts/cancel.sh");

/// Maximum number of bytes of a log that are read at once.
const CHUNK: u64 = 64 << 10;

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
        Box::pin(prepare::create_folder(self, dir))
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
            self.recent.status(&*self.tunnel, &job).await
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

    /// Reads the output of many ranks, and of other jobs that are watched, in one command.
    fn output<'a>(
        &'a self,
        job: &'a JobHandle,
        from: &'a BTreeMap<u32, u64>,
    ) -> BoxFuture<'a, Result<BTreeMap<u32, LogChunk>, ExecutorError>> {
        Box::pin(async move {
            let parsed = self.parse(job)?;
            let mut chunks = BTreeMap::new();
            // Reading files on this machine costs less than a command.
            if self.is_here {
                for (rank, offset) in from {
                    chunks.insert(*rank, self.logs(job, *rank, *offset).await?);
                }
                return Ok(chunks);
            }
            let request = |(rank, offset): (&u32, &u64)| (Part::From(*offset, CHUNK), parsed.file(rank_log(*rank)));
            for part in self.reads.read(&*self.tunnel, from.iter().map(request).collect()).await? {
                if let Some((rank, offset)) = from.iter().nth(part.request) {
                    let next = offset + part.bytes.len() as u64;
                    chunks.insert(*rank, LogChunk { bytes: part.bytes, next });
                }
            }
            Ok(chunks)
        })
    }

    fn results<'a>(&'a self, job: &'a JobHandle) -> BoxFuture<'a, Result<JobResults, ExecutorError>> {
        Box::pin(async move { results::results(self, &self.parse(job)?).await })
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
