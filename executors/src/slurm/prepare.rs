//! Preparation of the folders of a job on the machine that submits it.

use std::path::{Path, PathBuf};

use super::{
    SlurmExecutor,
    command::{self, script},
    files::check_folder,
    handle::{SlurmJob, is_job_id},
    query,
    submit_timeout::SubmitTimeout,
};
use crate::{batch_error::BatchError, error::ExecutorError, submission::Submission, tunnel::TunnelCommand};

const PREPARE: &str = include_str!("scripts/prepare.sh");
const FOLDER: &str = include_str!("scripts/folder.sh");

/// Creates a new folder on the machine.
pub(super) async fn create_folder(executor: &SlurmExecutor, dir: &Path) -> Result<PathBuf, ExecutorError> {
    check_folder(dir)?;
    let create = script(FOLDER, [dir.display().to_string()]);
    let path = run_until_reached(executor, &create).await?;
    Ok(PathBuf::from(path.trim_end_matches('\n')))
}

/// Prepares the folders and returns the number of the job in its own folder, from 1.
pub(super) async fn prepare(executor: &SlurmExecutor, submission: &Submission) -> Result<u32, ExecutorError> {
    let folders: Vec<&Path> = [submission.dir.as_path()]
        .into_iter()
        .chain(submission.tasks().iter().map(|task| task.dir.as_path()))
        .collect();
    let mut input = Vec::new();
    for folder in &folders {
        input.extend_from_slice(folder.as_os_str().as_encoded_bytes());
        input.push(b'\n');
    }
    let mut ended: Vec<String> = Vec::new();
    loop {
        let prepare = TunnelCommand {
            stdin: input.clone(),
            ..script(PREPARE, ended.iter().cloned())
        };
        let text = run_until_reached(executor, &prepare).await?;
        if let Some(number) = text.trim().strip_prefix("ready ").and_then(|number| number.parse().ok()) {
            return Ok(number);
        }
        let job = |line: &str| {
            let (id, dir) = line.strip_prefix("job ")?.split_once(' ')?;
            (is_job_id(id) && !ended.iter().any(|known| known == id)).then(|| executor.job(id, Path::new(dir)))
        };
        let Some(jobs) = text.lines().map(job).collect::<Option<Vec<_>>>().filter(|jobs| !jobs.is_empty()) else {
            return Err(unexpected(executor, "sh", &text, "`ready N`"));
        };
        if let Some(alive) = first_alive(executor, &jobs).await? {
            return Err(ExecutorError::AlreadyRunning { dir: alive.dir.clone() });
        }
        ended.extend(jobs.into_iter().map(|job| job.id));
    }
}

/// Returns the first of these jobs that has not ended.
async fn first_alive<'a>(executor: &SlurmExecutor, jobs: &'a [SlurmJob]) -> Result<Option<&'a SlurmJob>, ExecutorError> {
    let mut timeout = SubmitTimeout::new(executor);
    'again: loop {
        for (job, status) in jobs.iter().zip(query::statuses(&*executor.tunnel, jobs).await) {
            match status {
                Ok(status) if status.state.is_end() => {}
                Ok(_) => return Ok(Some(job)),
                Err(ExecutorError::UnknownJob { .. }) => {}
                Err(error) => {
                    timeout.wait(error).await?;
                    continue 'again;
                }
            }
        }
        return Ok(None);
    }
}

/// Runs a command until the machine and the controller can be reached.
async fn run_until_reached(executor: &SlurmExecutor, command: &TunnelCommand) -> Result<String, ExecutorError> {
    let mut timeout = SubmitTimeout::new(executor);
    loop {
        match command::run(&*executor.tunnel, command).await {
            Err(error) => timeout.wait(error).await?,
            Ok(text) => return Ok(text),
        }
    }
}

/// Returns the error of a program that printed something else.
pub(super) fn unexpected(executor: &SlurmExecutor, program: &str, text: &str, expected: &'static str) -> ExecutorError {
    BatchError::Output {
        place: executor.tunnel.place(),
        program: program.to_owned(),
        text: text.chars().take(200).collect(),
        expected,
    }
    .into()
}
