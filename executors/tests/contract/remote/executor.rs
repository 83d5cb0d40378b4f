//! The launcher's side.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use neva_executors::{
    BoxFuture, Executor, ExecutorError, JobEvents, JobHandle, JobResults, JobStatus, LocalExecutor, LogChunk, PollInterval, Submission,
    WatchFrom, poll,
};
use neva_schemas::{LaunchPlan, ScriptPlan, StopSignal};

use super::machine::Machine;

const WATCH: PollInterval = PollInterval {
    first: Duration::from_millis(5),
    max: Duration::from_millis(50),
    max_status: Duration::from_millis(50),
};

/// Executor without direct access: it does everything through [`Machine::call`].
pub(crate) struct RemoteExecutor {
    /// The executor on the machine.
    pub(crate) on_machine: LocalExecutor,
    pub(crate) machine: Arc<Machine>,
}

/// Number of submitted jobs, to distinguish them.
static SUBMISSIONS: AtomicUsize = AtomicUsize::new(0);

impl RemoteExecutor {
    /// Submits with a unique comment. If the reply is lost, the machine is searched for a job with this comment before a
    /// retry.
    async fn submit_once(&self, submission: &Submission) -> Result<JobHandle, ExecutorError> {
        let comment = format!("submission {}", SUBMISSIONS.fetch_add(1, Ordering::Relaxed));
        loop {
            let (local, machine) = (self.on_machine.clone(), Arc::clone(&self.machine));
            let (submission, name) = (submission.clone(), comment.clone());
            let submitted = self.machine.call(async move {
                let handle = local.submit(&submission).await?;
                machine.jobs().insert(name, handle.clone());
                Ok(handle)
            });
            match submitted.await {
                Err(error) if error.is_connection_lost() => {}
                ended => return ended,
            }
            if let Some(handle) = self.find(&comment).await? {
                return Ok(handle);
            }
        }
    }

    /// Looks up a job by its comment; retries until the machine answers.
    async fn find(&self, comment: &str) -> Result<Option<JobHandle>, ExecutorError> {
        loop {
            let (machine, comment) = (Arc::clone(&self.machine), comment.to_owned());
            match self.machine.call(async move { Ok(machine.jobs().get(&comment).cloned()) }).await {
                Err(error) if error.is_connection_lost() => {}
                found => return found,
            }
        }
    }
}

impl Executor for RemoteExecutor {
    fn name(&self) -> &'static str {
        "remote"
    }

    fn render(&self, plan: &LaunchPlan) -> Result<Submission, ExecutorError> {
        assert!(Path::new(&plan.run_dir).is_absolute());
        self.on_machine.render(plan)
    }

    fn render_script(&self, script: &ScriptPlan) -> Result<Submission, ExecutorError> {
        self.on_machine.render_script(script)
    }

    fn create_folder<'a>(&'a self, dir: &'a Path) -> BoxFuture<'a, Result<PathBuf, ExecutorError>> {
        let (local, dir) = (self.on_machine.clone(), dir.to_owned());
        Box::pin(self.machine.call(async move { local.create_folder(&dir).await }))
    }

    fn submit<'a>(&'a self, submission: &'a Submission) -> BoxFuture<'a, Result<JobHandle, ExecutorError>> {
        Box::pin(self.submit_once(submission))
    }

    fn watch<'a>(&'a self, job: &'a JobHandle, from: WatchFrom) -> JobEvents<'a> {
        poll(self, job, from, WATCH)
    }

    fn status<'a>(&'a self, job: &'a JobHandle) -> BoxFuture<'a, Result<JobStatus, ExecutorError>> {
        let (local, job) = (self.on_machine.clone(), job.clone());
        Box::pin(self.machine.call(async move { local.status(&job).await }))
    }

    /// Queries all jobs at once.
    fn statuses<'a>(&'a self, jobs: &'a [JobHandle]) -> BoxFuture<'a, Vec<Result<JobStatus, ExecutorError>>> {
        let (local, asked) = (self.on_machine.clone(), jobs.to_vec());
        Box::pin(async move {
            let call = self.machine.call(async move { Ok(local.statuses(&asked).await) });
            call.await.unwrap_or_else(|error| {
                let reason = error.to_string();
                jobs.iter()
                    .map(|_| {
                        Err(ExecutorError::Connection {
                            place: "the machine".into(),
                            source: std::io::Error::other(reason.clone()),
                        })
                    })
                    .collect()
            })
        })
    }

    fn logs<'a>(&'a self, job: &'a JobHandle, rank: u32, offset: u64) -> BoxFuture<'a, Result<LogChunk, ExecutorError>> {
        let (local, job) = (self.on_machine.clone(), job.clone());
        Box::pin(self.machine.call(async move { local.logs(&job, rank, offset).await }))
    }

    fn results<'a>(&'a self, job: &'a JobHandle) -> BoxFuture<'a, Result<JobResults, ExecutorError>> {
        let (local, job) = (self.on_machine.clone(), job.clone());
        Box::pin(self.machine.call(async move { local.results(&job).await }))
    }

    fn cancel<'a>(&'a self, job: &'a JobHandle, signal: StopSignal) -> BoxFuture<'a, Result<(), ExecutorError>> {
        let (local, job) = (self.on_machine.clone(), job.clone());
        Box::pin(self.machine.call(async move { local.cancel(&job, signal).await }))
    }
}
