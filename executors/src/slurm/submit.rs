//! Submission: one job for each folder, and never two for one request.
//!
//! Everything that must happen once happens in one command on the machine that submits jobs, under a lock. A repetition
//! after a lost connection finds the number in `slurm.job`, or searches Slurm for the key in the job's comment.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use neva_schemas::When;
use sha2::{Digest as _, Sha256};
use tokio::time::{Instant, sleep};

use super::{
    SlurmExecutor,
    command::{self, script},
    files::check_folder,
    handle::is_job_id,
};
use crate::{
    batch_error::BatchError,
    error::ExecutorError,
    job::JobHandle,
    submission::{BatchScript, JobKind, Payload, Submission},
    tunnel::{CommandEnd, CommandOutput, TunnelCommand, TunnelFile},
};

const PREPARE: &str = include_str!("scripts/prepare.sh");
const SUBMIT: &str = include_str!("scripts/submit.sh");
const FOLDER: &str = include_str!("scripts/folder.sh");

/// Time that sbatch has: a busy controller may take minutes.
const SUBMIT_TIMEOUT: Duration = Duration::from_secs(300);

/// Longest pause between two attempts.
const MAX_PAUSE: Duration = Duration::from_secs(15);

/// First words of the key in a job's comment.
const KEY: &str = "neva-run:";

/// Creates a new folder on the machine.
pub(super) async fn create_folder(executor: &SlurmExecutor, dir: &Path) -> Result<PathBuf, ExecutorError> {
    check_folder(dir)?;
    let create = script(FOLDER, [dir.display().to_string()]);
    let path = run_patiently(executor, &create).await?;
    Ok(PathBuf::from(path.trim_end_matches('\n')))
}

/// Submits a job.
pub(super) async fn submit(
    executor: &SlurmExecutor,
    submission: &Submission,
    after: &[(JobHandle, When)],
) -> Result<JobHandle, ExecutorError> {
    let Payload::BatchScript(batch) = &submission.payload else {
        return Err(not_ours(executor));
    };
    check_folder(&submission.dir)?;
    let number = prepare(executor, submission).await?;
    executor.ship(submission).await?;
    let files = files(submission, batch);
    let command = submit_command(executor, submission, &with_dependencies(executor, batch, after)?, number);
    let mut patience = Patience::new(executor);
    loop {
        match write_and_submit(executor, &files, &command).await {
            Err(error) => patience.wait(error).await?,
            Ok(id) => return Ok(executor.job(&id, &submission.dir).handle()),
        }
    }
}

async fn write_and_submit(executor: &SlurmExecutor, files: &[TunnelFile], command: &TunnelCommand) -> Result<String, ExecutorError> {
    // Files that are there already are not sent again.
    executor.tunnel.write(files).await?;
    submitted(executor, &executor.tunnel.run(command).await?)
}

/// Prepares the folder and returns the number of the job in it, from 1.
async fn prepare(executor: &SlurmExecutor, submission: &Submission) -> Result<u32, ExecutorError> {
    let dir = &submission.dir;
    let mut ended = String::new();
    loop {
        let prepare = script(PREPARE, [dir.display().to_string(), ended.clone()]);
        let text = run_patiently(executor, &prepare).await?;
        match text.trim().split_once(' ') {
            Some(("ready", number)) if number.parse::<u32>().is_ok() => return Ok(number.parse().unwrap_or(1)),
            Some(("job", id)) if is_job_id(id) && id != ended => {
                if is_alive(executor, &executor.job(id, dir).handle()).await? {
                    return Err(ExecutorError::AlreadyRunning { dir: dir.clone() });
                }
                ended = id.to_owned();
            }
            _ => return Err(unexpected(executor, "sh", &text, "`ready N`")),
        }
    }
}

/// Returns true if the folder's job has not ended.
async fn is_alive(executor: &SlurmExecutor, job: &JobHandle) -> Result<bool, ExecutorError> {
    let mut patience = Patience::new(executor);
    loop {
        match executor.one_status(job).await {
            Ok(status) => return Ok(!status.state.is_end()),
            Err(ExecutorError::UnknownJob { .. }) => return Ok(false),
            Err(error) => patience.wait(error).await?,
        }
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
    let mut words = vec![submission.dir.display().to_string(), key.clone(), kind.to_owned()];
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
        *own += &format!(",{wanted}");
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

/// Returns the error of a failed sbatch.
fn refused(place: &str, code: i32, stderr: &[u8]) -> ExecutorError {
    let words = command::words(stderr);
    if command::is_unreachable(&words) || matches!(code, 126 | 127) {
        let output = CommandOutput {
            end: CommandEnd::Exit(code),
            stdout: Vec::new(),
            stderr: stderr.to_vec(),
        };
        return command::failure(place, "sbatch", &output);
    }
    let lower = words.to_ascii_lowercase();
    let known = REFUSALS.iter().find(|(text, _)| lower.contains(text));
    BatchError::Refused {
        program: "sbatch".into(),
        help: known.map(|(_, help)| (*help).to_owned()),
        // Nothing that the user set: Slurm's programs are there, but no cluster.
        is_input: known.is_some_and(|(text, _)| *text != NO_CLUSTER),
        words,
    }
    .into()
}

/// Words of Slurm's programs on a machine that belongs to no cluster.
const NO_CLUSTER: &str = "could not establish a configuration source";

/// Words of sbatch that mean a wrong setting, and what to type instead.
const REFUSALS: &[(&str, &str)] = &[
    (
        NO_CLUSTER,
        "this machine belongs to no cluster: work on a login node, or name one with the executor's `tunnel`",
    ),
    ("invalid partition", "set `executor.partition` to one that `sinfo` lists"),
    (
        "invalid account",
        "set `executor.account` to one that `sacctmgr show associations user=$USER` lists",
    ),
    ("invalid qos", "set `executor.qos` to one that `sacctmgr show qos` lists"),
    (
        "invalid generic resource",
        "set `executor.gpus_per_node` or `executor.gres` to what `sinfo -o '%P %G'` lists",
    ),
    (
        "node configuration is not available",
        "no node has that many GPUs, cores or that much memory: compare `num_gpus_per_node`, `executor.mem` and others with \
         `sinfo -N -o '%N %c %m %G'`",
    ),
    (
        "node count specification invalid",
        "set `num_nodes` to at most the number of nodes that `sinfo` lists",
    ),
    (
        "more processors requested",
        "set `executor.cpus_per_task` lower: compare with `sinfo -o '%P %c'`",
    ),
    ("invalid --time", "write `executor.time` as `30`, `2:00:00` or `1-12:00:00`"),
    (
        "time limit is invalid",
        "set `executor.time` to at most the limit of the partition, which `sinfo -o '%P %l'` lists",
    ),
    (
        "invalid feature",
        "set `executor.constraint` to features that `sinfo -o '%P %f'` lists",
    ),
    (
        "reservation is invalid",
        "set `executor.reservation` to one that `scontrol show reservation` lists",
    ),
    ("reservation", "see `scontrol show reservation`"),
    ("job dependency problem", "set `executor.dependencies` to numbers of jobs"),
    (
        "unrecognized option",
        "this Slurm does not have the option: set it to `null` in `executor.additional_parameters`, or set `executor.slurm_version`",
    ),
    ("unknown option", "set the option to `null` in `executor.additional_parameters`"),
    ("invalid option", "set the option to `null` in `executor.additional_parameters`"),
    (
        "violates accounting",
        "the limits of your account or QOS do not allow it: ask for less, or wait for your other jobs",
    ),
    ("invalid wckey", "set `wckey` in `executor.additional_parameters`"),
    ("invalid", "compare the executor's settings with `man sbatch`"),
    (
        "access/permission denied",
        "your user may not submit such a job: see `executor.partition` and `executor.account`",
    ),
    (
        "user's group not permitted",
        "your group may not use this partition: set `executor.partition`",
    ),
    (
        "not permitted to use",
        "set `executor.account`, `executor.partition` or `executor.qos` to what you may use",
    ),
];

/// Waits while the machine or the controller cannot be reached.
struct Patience {
    pause: Duration,
    deadline: Instant,
    is_warned: bool,
}

impl Patience {
    fn new(executor: &SlurmExecutor) -> Self {
        Self {
            pause: executor.interval().first,
            deadline: Instant::now() + executor.patience,
            is_warned: false,
        }
    }

    /// Pauses before a repetition.
    ///
    /// # Errors
    /// Returns `error` if a repetition does not help, or the time is over.
    async fn wait(&mut self, error: ExecutorError) -> Result<(), ExecutorError> {
        if !error.is_connection_lost() || Instant::now() + self.pause >= self.deadline {
            return Err(error);
        }
        if !std::mem::replace(&mut self.is_warned, true) {
            let minutes = (self.deadline - Instant::now()).as_secs().div_ceil(60);
            tracing::warn!("{}; the submission waits for it, up to {minutes} min", error.reason());
        }
        sleep(self.pause).await;
        self.pause = (2 * self.pause).min(MAX_PAUSE);
        Ok(())
    }
}

/// Runs a command until the machine and the controller can be reached.
async fn run_patiently(executor: &SlurmExecutor, command: &TunnelCommand) -> Result<String, ExecutorError> {
    let mut patience = Patience::new(executor);
    loop {
        match command::run(&*executor.tunnel, command).await {
            Err(error) => patience.wait(error).await?,
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
fn not_ours(executor: &SlurmExecutor) -> ExecutorError {
    ExecutorError::Connection {
        place: executor.tunnel.place(),
        source: io::Error::other("the submission holds no batch script"),
    }
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
        };
        assert!(with_dependencies(&executor(), &batch, &foreign).is_err());
    }

    /// Words of sbatch 22.05.
    #[test]
    fn refusals_say_what_to_type() {
        for (code, words, class, help) in [
            (
                1,
                "sbatch: error: Batch job submission failed: Invalid partition name specified",
                2,
                "sinfo",
            ),
            (
                1,
                "sbatch: error: Batch job submission failed: Requested node configuration is not available",
                2,
                "executor.mem",
            ),
            (255, "sbatch: unrecognized option '--segment=4'", 2, "additional_parameters"),
            (1, "sbatch: error: Batch job submission failed: Something new", 3, ""),
            (127, "sh: 1: sbatch: not found", 3, "login node"),
        ] {
            let error = refused("this machine", code, words.as_bytes());
            assert_eq!(error.exit_code(), class, "{words}");
            assert!(error.help().unwrap_or_default().contains(help), "{words}: {error:?}");
        }
        assert!(
            refused(
                "x",
                1,
                b"sbatch: error: Batch job submission failed: Socket timed out on send/recv operation"
            )
            .is_connection_lost()
        );
    }

    #[test]
    fn keys_differ_by_folder_and_number() {
        let key = |dir: &str, number| key(&executor(), Path::new(dir), number);
        assert_eq!(key("/runs/a", 1), key("/runs/a", 1));
        assert_eq!(key("/runs/a", 1).len(), 16);
        assert!(key("/runs/a", 1) != key("/runs/a", 2) && key("/runs/a", 1) != key("/runs/b", 1));
    }
}
