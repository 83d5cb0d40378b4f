//! An executor for PBS, as an example: docs/executors.md explains it, and the contract suite of executors runs it.
//!
//! It runs on a login node that shares its files with the nodes, and starts all ranks of a run on one node. The state of a
//! job is PBS's own and files in the job's folder, so any later process can continue from a handle.

mod folder;
mod script;

use std::path::{Path, PathBuf};

use neva_executors::{
    BoxFuture, Executor, ExecutorError, JobEvents, JobHandle, JobKind, JobResults, JobState, JobStatus, LocalExecutor, LogChunk, Payload,
    PollInterval, Submission, WatchFrom, create_run_folder, poll,
};
use neva_schemas::{LaunchPlan, ScriptPlan, StopSignal};
use tokio::process::Command;

use self::folder::PbsFolder;

/// Submits jobs to PBS.
#[derive(Debug, Clone)]
pub struct PbsExecutor {
    /// The rank program, as seen by the nodes.
    pub program: PathBuf,
    /// Queue; PBS's default if there is none.
    pub queue: Option<String>,
    /// Time limit, `HH:MM:SS`.
    pub walltime: String,
    /// Folder of `qsub`, `qstat`, `qsig` and `qdel`; searched in PATH if it is empty.
    pub bin: PathBuf,
    /// Pauses between two polls.
    pub interval: PollInterval,
}

impl PbsExecutor {
    /// Runs one of PBS's programs. Returns its output, or `None` if it failed.
    async fn call(&self, program: &str, arguments: &[&str]) -> Result<Option<String>, ExecutorError> {
        let output = Command::new(self.bin.join(program)).args(arguments).output().await;
        let output = output.map_err(|source| ExecutorError::Start {
            program: program.to_owned(),
            source,
        })?;
        Ok(output
            .status
            .success()
            .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned()))
    }

    /// Returns the folder of a job of this executor.
    fn folder(&self, job: &JobHandle) -> Result<(String, PbsFolder), ExecutorError> {
        let unknown = || ExecutorError::UnknownJob { job: job.clone() };
        let (number, _) = job
            .0
            .strip_prefix("pbs://")
            .and_then(|rest| rest.split_once('/'))
            .ok_or_else(unknown)?;
        let dir = &job.0["pbs://".len() + number.len()..];
        PbsFolder::open(Path::new(dir))
            .map(|folder| (number.to_owned(), folder))
            .ok_or_else(unknown)
    }

    /// Returns PBS's letter for the state of a job; `F`, finished, also if PBS has forgotten it.
    async fn letter(&self, number: &str) -> Result<char, ExecutorError> {
        let text = self.call("qstat", &["-x", "-f", number]).await?.unwrap_or_default();
        let line = text.lines().find_map(|line| line.trim().strip_prefix("job_state = "));
        Ok(line.and_then(|state| state.chars().next()).unwrap_or('F'))
    }

    async fn state(&self, number: &str, folder: &PbsFolder) -> Result<JobState, ExecutorError> {
        match self.letter(number).await? {
            'Q' | 'H' | 'W' | 'T' => Ok(JobState::Pending),
            'F' | 'X' => folder.end(),
            _ => Ok(JobState::Running),
        }
    }

    /// Replaces the processes of the local executor by a batch script that starts them.
    fn batch(&self, name: &str, submission: Submission) -> Submission {
        script::batch(self, name, submission)
    }

    fn local(&self) -> LocalExecutor {
        LocalExecutor::new(&self.program)
    }
}

impl Executor for PbsExecutor {
    fn name(&self) -> &'static str {
        "pbs"
    }

    fn render(&self, plan: &LaunchPlan) -> Result<Submission, ExecutorError> {
        Ok(self.batch(&plan.name, self.local().render(plan)?))
    }

    fn render_script(&self, script: &ScriptPlan) -> Result<Submission, ExecutorError> {
        Ok(self.batch(&script.name, self.local().render_script(script)?))
    }

    fn create_folder<'a>(&'a self, dir: &'a Path) -> BoxFuture<'a, Result<PathBuf, ExecutorError>> {
        Box::pin(async move { create_run_folder(dir) })
    }

    fn submit<'a>(&'a self, submission: &'a Submission) -> BoxFuture<'a, Result<JobHandle, ExecutorError>> {
        Box::pin(async move {
            let dir = submission.dir.display();
            if let Some(folder) = PbsFolder::open(&submission.dir)
                && let Some(number) = folder.number()
                && !self.state(&number, &folder).await?.is_end()
            {
                return Err(ExecutorError::AlreadyRunning {
                    dir: submission.dir.clone(),
                });
            }
            let folder = PbsFolder::prepare(submission)?;
            let Payload::BatchScript(batch) = &submission.payload else {
                return Err(ExecutorError::UnknownJob {
                    job: JobHandle(format!("pbs://{dir}")),
                });
            };
            let arguments: Vec<_> = batch.submit_argv[1..].iter().map(String::as_str).collect();
            let number = self.call("qsub", &arguments).await?.ok_or_else(|| ExecutorError::Refused {
                message: "qsub refused the job".to_owned(),
                help: format!("run `{}`", batch.submit_argv.join(" ")),
            })?;
            folder.set_number(&number, submission.kind == JobKind::Script)?;
            Ok(JobHandle(format!("pbs://{number}{dir}")))
        })
    }

    fn watch<'a>(&'a self, job: &'a JobHandle, from: WatchFrom) -> JobEvents<'a> {
        poll(self, job, from, self.interval)
    }

    fn status<'a>(&'a self, job: &'a JobHandle) -> BoxFuture<'a, Result<JobStatus, ExecutorError>> {
        Box::pin(async move {
            let (number, folder) = self.folder(job)?;
            Ok(self.state(&number, &folder).await?.into())
        })
    }

    fn logs<'a>(&'a self, job: &'a JobHandle, rank: u32, offset: u64) -> BoxFuture<'a, Result<LogChunk, ExecutorError>> {
        Box::pin(async move { self.folder(job)?.1.logs(rank, offset) })
    }

    fn results<'a>(&'a self, job: &'a JobHandle) -> BoxFuture<'a, Result<JobResults, ExecutorError>> {
        Box::pin(async move { JobResults::read(self.folder(job)?.1.dir()) })
    }

    fn cancel<'a>(&'a self, job: &'a JobHandle, _signal: StopSignal) -> BoxFuture<'a, Result<(), ExecutorError>> {
        Box::pin(async move {
            let (number, folder) = self.folder(job)?;
            if self.state(&number, &folder).await?.is_end() {
                return Ok(());
            }
            let arguments: &[&str] = match folder.count_request()? {
                // The script passes SIGTERM on to the ranks, which save and exit.
                1 if self.letter(&number).await? == 'R' => &["-s", "SIGTERM", &number],
                _ => &["-W", "force", &number],
            };
            let program = if arguments[0] == "-s" { "qsig" } else { "qdel" };
            self.call(program, arguments).await.map(drop)
        })
    }
}
