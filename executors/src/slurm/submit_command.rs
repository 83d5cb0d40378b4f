//! The command that submits a job: sbatch, with the job's key and dependencies.

use std::{path::Path, time::Duration};

use neva_schemas::When;
use sha2::{Digest as _, Sha256};

use super::{SlurmExecutor, command::script};
use crate::{
    error::ExecutorError,
    job::JobHandle,
    submission::{BatchScript, JobKind, Submission},
    tunnel::TunnelCommand,
};

const SUBMIT: &str = include_str!("scripts/submit.sh");

/// Time that sbatch has: a busy controller may take minutes.
const SUBMIT_TIMEOUT: Duration = Duration::from_secs(300);

/// First words of the key in a job's comment.
const KEY: &str = "neva-run:";

/// Returns the command that submits the job once.
pub(super) fn submit_command(executor: &SlurmExecutor, submission: &Submission, argv: &[String], number: u32) -> TunnelCommand {
    let key = key(executor, &submission.dir, number);
    let kind = match submission.kind {
        JobKind::Ranks => "ranks",
        JobKind::Script => "script",
    };
    let mut argv = argv.iter().cloned();
    let has_tasks = if submission.tasks().is_empty() { "" } else { "tasks" };
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
pub(super) fn with_dependencies(
    executor: &SlurmExecutor,
    batch: &BatchScript,
    after: &[(JobHandle, When)],
) -> Result<Vec<String>, ExecutorError> {
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

#[cfg(test)]
mod tests {
    use std::{fmt::Write as _, fs, os::unix::fs::symlink, process::Command, sync::Arc};

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

    /// Runs the script itself, on a machine with perl and on one without.
    #[test]
    fn each_task_gets_the_number_of_the_job() {
        for tools in [&["perl", "mv", "rm", "sed", "tail"][..], &["mv", "rm", "sed", "tail"]] {
            let dir = tempfile::tempdir().unwrap();
            let at = |name: &str| dir.path().join(name);
            let bin = at("bin");
            fs::create_dir(&bin).unwrap();
            for tool in tools {
                let paths = ["/usr/bin", "/bin"].map(|folder| Path::new(folder).join(tool));
                if let Some(path) = paths.iter().find(|path| path.exists()) {
                    symlink(path, bin.join(tool)).unwrap();
                }
            }
            let mut list = String::new();
            for (number, (task, kind)) in [("one", "ranks"), ("two words", "script")].iter().enumerate() {
                fs::create_dir(at(task)).unwrap();
                let _ = writeln!(list, "- _{number} {kind} {}", at(task).display());
            }
            fs::write(at("tasks.txt"), list).unwrap();
            let output = Command::new("/bin/sh")
                .args(["-c", SUBMIT, "neva-run"])
                .arg(dir.path())
                .args(["KEY", "ranks", "tasks", "/bin/sh", "-c", "echo 77"])
                .env("PATH", &bin)
                .output()
                .unwrap();
            assert_eq!(String::from_utf8_lossy(&output.stdout), "job 77\n", "{output:?}");
            let of = |name: &str| fs::read_to_string(at(name).join("slurm.job")).unwrap();
            let here = dir.path().display();
            assert_eq!(of("one"), format!("77_0 ranks KEY {here}\n"));
            assert_eq!(of("two words"), format!("77_1 script KEY {here}\n"));
            assert_eq!(of("."), "77 ranks KEY\n");
            assert!(!at("one/slurm.job.part").exists() && !at("slurm.submitting").exists());
        }
    }
}
