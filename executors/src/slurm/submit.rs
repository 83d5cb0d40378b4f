//! Submission: one job for each folder, and never two for one request.
//!
//! Everything that must happen once happens in one command on the machine that submits jobs, under a lock. A repetition
//! after a lost connection finds the number in `slurm.job`, or searches Slurm for the key in the job's comment.

use std::path::{Path, PathBuf};

use neva_schemas::When;

use super::{
    SlurmExecutor, command,
    evidence::JOB_FILE,
    files::{Part, check_folder, read},
    handle::is_job_id,
    prepare::{prepare, unexpected},
    refusal::refused,
    submit_command::{submit_command, with_dependencies},
    submit_timeout::SubmitTimeout,
};
use crate::{
    batch_error::BatchError,
    error::ExecutorError,
    job::JobHandle,
    submission::{BatchScript, BatchTask, Payload, Submission},
    tunnel::{CommandOutput, TunnelCommand, TunnelFile},
};

/// Submits a job.
pub(super) async fn submit(
    executor: &SlurmExecutor,
    submission: &Submission,
    after: &[(JobHandle, When)],
) -> Result<JobHandle, ExecutorError> {
    let id = submit_once(executor, submission, after).await?;
    Ok(executor.job(&id, &submission.dir).handle())
}

/// Submits a job of several tasks, and returns the handle of each.
pub(super) async fn submit_tasks(
    executor: &SlurmExecutor,
    submission: &Submission,
    after: &[(JobHandle, When)],
) -> Result<Vec<JobHandle>, ExecutorError> {
    let id = submit_once(executor, submission, after).await?;
    let handle = |task: &BatchTask| executor.job(&format!("{id}{}", task.suffix), &task.dir).handle();
    Ok(submission.tasks().iter().map(handle).collect())
}

/// Returns the latest job in a folder.
pub(super) async fn find_job(executor: &SlurmExecutor, dir: &Path) -> Result<Option<JobHandle>, ExecutorError> {
    let parts = read(&*executor.tunnel, &[(Part::From(0, 1000), dir.join(JOB_FILE))]).await?;
    let text = parts.first().map(|part| String::from_utf8_lossy(&part.bytes).into_owned());
    let id = text.as_deref().and_then(|text| text.split_whitespace().next());
    Ok(id.filter(|id| is_job_id(id)).map(|id| executor.job(id, dir).handle()))
}

/// Submits a job and returns its number.
async fn submit_once(executor: &SlurmExecutor, submission: &Submission, after: &[(JobHandle, When)]) -> Result<String, ExecutorError> {
    let Payload::BatchScript(batch) = &submission.payload else {
        return Err(not_ours());
    };
    check_folder(&submission.dir)?;
    for task in &batch.tasks {
        check_folder(&task.dir)?;
    }
    let number = prepare(executor, submission).await?;
    executor.ship(submission).await?;
    let files = files(submission, batch);
    let command = submit_command(executor, submission, &with_dependencies(executor, batch, after)?, number);
    let mut timeout = SubmitTimeout::new(executor);
    loop {
        match write_and_submit(executor, &files, &command).await {
            Err(error) => timeout.wait(error).await?,
            Ok(id) => return Ok(id),
        }
    }
}

async fn write_and_submit(executor: &SlurmExecutor, files: &[TunnelFile], command: &TunnelCommand) -> Result<String, ExecutorError> {
    // Files that are there already are not sent again.
    executor.tunnel.write(files).await?;
    submitted(executor, &executor.tunnel.run(command).await?)
}

/// Returns the files of a submission.
fn files(submission: &Submission, batch: &BatchScript) -> Vec<TunnelFile> {
    let file = |(name, text): (&PathBuf, &String)| TunnelFile {
        path: submission.dir.join(name),
        bytes: text.as_bytes().to_vec(),
        mode: if *name == batch.batch_script { 0o755 } else { 0o644 },
    };
    submission.files.iter().map(file).collect()
}

/// Returns the number of the submitted job.
fn submitted(executor: &SlurmExecutor, output: &CommandOutput) -> Result<String, ExecutorError> {
    let place = executor.tunnel.place();
    if !output.is_success() {
        return Err(command::failure(&place, "sh", output));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    match text.trim().split_once(' ') {
        Some(("job", id)) if is_job_id(id) => Ok(id.to_owned()),
        Some(("failed", code)) => Err(refused(&place, code.parse().unwrap_or(1), &output.stderr)),
        _ => Err(unexpected(executor, "sbatch", &text, "the number of a job")),
    }
}

/// Returns the error of a submission that another executor rendered.
fn not_ours() -> ExecutorError {
    let reason = "the submission holds no batch script: another executor rendered it".to_owned();
    BatchError::Query { reason }.into()
}
