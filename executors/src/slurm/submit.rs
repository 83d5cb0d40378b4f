//! Submission: one job for each folder, and never two for one request.
//!
//! Everything that must happen once happens in one command on the machine that submits jobs, under a lock. A repetition
//! after a lost connection finds the number in `slurm.job`, or searches Slurm for the key in the job's comment.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use neva_schemas::When;
use sha2::{Digest as _, Sha256};

use super::{
    SlurmExecutor,
    command::{self, script},
    evidence::JOB_FILE,
    files::{Part, check_folder, read},
    handle::{SlurmJob, is_job_id},
    query,
    refusal::refused,
    submit_timeout::SubmitTimeout,
};
use crate::{
    batch_error::BatchError,
    error::ExecutorError,
    job::JobHandle,
    submission::{BatchScript, BatchTask, JobKind, Payload, Submission},
    tunnel::{CommandOutput, TunnelCommand, TunnelFile},
};

const PREPARE: &str = include_str!("scripts/prepare.sh");
const SUBMIT: &str = include_str!("scripts/submit.sh");
const FOLDER: &str = include_str!("scripts/folder.sh");

/// Time that sbatch has: a busy controller may take minutes.
const SUBMIT_TIMEOUT: Duration = Duration::from_secs(300);

/// First words of the key in a job's comment.
const KEY: &str = "neva-run:";

/// Creates a new folder on the machine.
pub(super) async fn create_folder(executor: &SlurmExecutor, dir: &Path) -> Result<PathBuf, ExecutorError> {
    check_folder(dir)?;
    let create = script(FOLDER, [dir.display().to_string()]);
    let path = run_until_reached(executor, &create).await?;
    Ok(PathBuf::from(path.trim_end_matches('\n')))
}

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
    Ok(tasks(submission).iter().map(handle).collect())
}

/// Returns the latest job in a folder.
pub(super) async fn find_job(executor: &SlurmExecutor, dir: &Path) -> Result<Option<JobHandle>, ExecutorError> {
    let parts = read(&*executor.tunnel, &[(Part::From(0, 1000), dir.join(JOB_FILE))]).await?;
    let text = parts.first().map(|part| String::from_utf8_lossy(&part.bytes).into_owned());
    let id = text.as_deref().and_then(|text| text.split_whitespace().next());
    Ok(id.filter(|id| is_job_id(id)).map(|id| executor.job(id, dir).handle()))
}

/// Returns the tasks of a job of several tasks.
fn tasks(submission: &Submission) -> &[BatchTask] {
    match &submission.payload {
        Payload::BatchScript(batch) => &batch.tasks,
        Payload::Processes(_) | Payload::Manifests(_) => &[],
    }
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

/// Prepares the folders and returns the number of the job in its own folder, from 1.
async fn prepare(executor: &SlurmExecutor, submission: &Submission) -> Result<u32, ExecutorError> {
    let folders: Vec<&Path> = [submission.dir.as_path()]
        .into_iter()
        .chain(tasks(submission).iter().map(|task| task.dir.as_path()))
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

/// Returns the files of a submission.
fn files(submission: &Submission, batch: &BatchScript) -> Vec<TunnelFile> {
    let file = |(name, text): (&PathBuf, &String)| TunnelFile {
        path: submission.dir.join(name),
        bytes: text.as_bytes().to_vec(),
        mode: if *name == batch.batch_script { 0o755 } else { 0o644 },
    };
    submission.files.iter().map(file).collect()
}

/// Returns the command that submits the job once.
fn submit_command(executor: &SlurmExecutor, submission: &Submission, argv: &[String], number: u32) -> TunnelCommand {
    let key = key(executor, &submission.dir, number);
    let kind = match submission.kind {
        JobKind::Ranks => "ranks",
        JobKind::Script => "script",
    };
    let mut argv = argv.iter().cloned();
    let has_tasks = if tasks(submission).is_empty() { "" } else { "tasks" };
    let mut words = vec![
        submission.dir.display().to_string(),
        key.clone(),
        kind.to_owned(),
        has_tasks.to_owned(),
    ];
    words.extend(argv.next());
    let comment = executor
        .config
        .comment
        .as_deref()
        .map_or_else(String::new, |comment| format!("{comment} "));
    words.push(format!("--comment={comment}{KEY}{key}"));
    words.extend(argv);
    let mut command = script(SUBMIT, words);
    command.deadline = SUBMIT_TIMEOUT;
    command.env.extend(executor.environment.clone());
    command
}

/// Returns the command line of sbatch with these dependencies in addition to its own.
fn with_dependencies(executor: &SlurmExecutor, batch: &BatchScript, after: &[(JobHandle, When)]) -> Result<Vec<String>, ExecutorError> {
    const OPTION: &str = "--dependency=";
    let mut argv = batch.submit_argv.clone();
    let mut wanted = Vec::new();
    for (job, when) in after {
        let kind = match when {
            When::AfterOk => "afterok",
            When::AfterAny => "afterany",
            When::AfterNotOk => "afternotok",
        };
        wanted.push(format!("{kind}:{}", executor.parse(job)?.id));
    }
    if wanted.is_empty() {
        return Ok(argv);
    }
    // A comma means that all must be met. sbatch takes only one such option.
    let wanted = wanted.join(",");
    if let Some(own) = argv.iter_mut().find(|word| word.starts_with(OPTION)) {
        own.extend([",", wanted.as_str()]);
    } else {
        argv.splice(1..1, [format!("{OPTION}{wanted}"), "--kill-on-invalid-dep=yes".to_owned()]);
    }
    Ok(argv)
}

/// Returns the key of a job: the same for the same job in a folder, whichever launcher submits it.
fn key(executor: &SlurmExecutor, dir: &Path, number: u32) -> String {
    let mut hash = Sha256::new();
    hash.update(executor.place());
    hash.update([0]);
    hash.update(dir.as_os_str().as_encoded_bytes());
    hash.update(format!("\0{number}"));
    hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
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

fn unexpected(executor: &SlurmExecutor, program: &str, text: &str, expected: &'static str) -> ExecutorError {
    BatchError::Output {
        place: executor.tunnel.place(),
        program: program.to_owned(),
        text: text.chars().take(200).collect(),
        expected,
    }
    .into()
}

/// Returns the error of a submission that another executor rendered.
fn not_ours() -> ExecutorError {
    let reason = "the submission holds no batch script: another executor rendered it".to_owned();
    BatchError::Query { reason }.into()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use neva_schemas::SlurmExecutorConfig;

    use super::*;
    use crate::tunnel::LocalTunnel;

    fn executor() -> SlurmExecutor {
        SlurmExecutor {
            is_here: true,
            ..SlurmExecutor::new(SlurmExecutorConfig::default(), Arc::new(LocalTunnel), "neva-rank")
        }
    }

    #[test]
    fn dependencies_join_those_of_the_user() {
        let after = |number: u32, when| (JobHandle(format!("slurm:///{number}/runs/{number}")), when);
        let parents = [after(3, When::AfterOk), after(4, When::AfterAny), after(5, When::AfterNotOk)];
        let argv = |own: &[&str]| {
            let words = ["sbatch", "--parsable"].iter().chain(own).chain(&["job.sbatch"]);
            let batch = BatchScript {
                batch_script: "job.sbatch".into(),
                submit_argv: words.map(ToString::to_string).collect(),
                tasks: Vec::new(),
            };
            with_dependencies(&executor(), &batch, &parents).unwrap().join(" ")
        };
        let wanted = "afterok:3,afterany:4,afternotok:5";
        assert_eq!(
            argv(&[]),
            format!("sbatch --dependency={wanted} --kill-on-invalid-dep=yes --parsable job.sbatch")
        );
        assert_eq!(
            argv(&["--dependency=afterok:1", "--kill-on-invalid-dep=yes"]),
            format!("sbatch --parsable --dependency=afterok:1,{wanted} --kill-on-invalid-dep=yes job.sbatch")
        );
        let foreign = [(JobHandle("local:///runs/1".into()), When::AfterOk)];
        let batch = BatchScript {
            batch_script: "job.sbatch".into(),
            submit_argv: vec!["sbatch".into()],
            tasks: Vec::new(),
        };
        assert!(with_dependencies(&executor(), &batch, &foreign).is_err());
    }

    #[test]
    fn keys_differ_by_folder_and_number() {
        let key = |dir: &str, number| key(&executor(), Path::new(dir), number);
        assert_eq!(key("/runs/a", 1), key("/runs/a", 1));
        assert_eq!(key("/runs/a", 1).len(), 16);
        assert!(key("/runs/a", 1) != key("/runs/a", 2) && key("/runs/a", 1) != key("/runs/b", 1));
    }
}
