//! Jobs that Slurm or their own script starts again.

use std::{fs, path::Path};

use neva_tests::{finish, run_folder, start, wait_for};

use crate::{
    cluster::{Cluster, tiny, words},
    training::{ONE_BY_FOUR, TWO_BY_TWO, losses, newest, steps},
};

/// Trains on this machine until at least `count` steps are recorded, and returns their losses.
fn reference(cluster: &Cluster, count: usize, settings: &[&str]) -> std::collections::BTreeMap<u64, u64> {
    let dir = cluster.dir.path().join("reference");
    let arguments = tiny(&dir, "run", settings);
    let launcher = start(cluster.neva_run(&words(&arguments, &[])));
    wait_for("as many steps", || (steps(&newest(&dir, "run")?) >= count).then_some(()));
    let stopped = std::process::Command::new("kill").arg(launcher.id().to_string()).status().unwrap();
    assert!(stopped.success());
    let _ = finish(launcher);
    losses(&run_folder(&dir, "run"))
}

/// Compares the steps that both have.
#[track_caller]
fn check_same(run: &Path, expected: &std::collections::BTreeMap<u64, u64>) {
    let own = losses(run);
    let both = own.iter().filter(|(step, _)| expected.contains_key(step)).count();
    assert!(both > 10, "{both} steps to compare of {} and {}", own.len(), expected.len());
    for (step, loss) in &own {
        assert!(expected.get(step).is_none_or(|other| other == loss), "step {step}");
    }
}

const LONG: &str = "finetune.trainer.max_steps=1000000";

#[test]
fn a_crashed_node_is_survived() {
    let cluster = Cluster::start("crash", &["--set", "SlurmdTimeout=10"]);
    let dir = cluster.dir.path().join("runs");
    let executor = cluster.executor("two", "retries: 2");
    let settings = [&[LONG][..], &TWO_BY_TWO].concat();
    let arguments = tiny(&dir, "run", &settings);
    let launcher = start(cluster.neva_run(&words(&arguments, &["--executor", &executor])));
    let run = wait_for("a run", || newest(&dir, "run"));
    let id = cluster.job_of(&run);
    wait_for("steps", || (steps(&run) > 30).then_some(()));
    let _ = cluster.node("n2", "crash");
    let before = steps(&run);
    wait_for("the node's failure", || {
        let job = cluster.output(&["scontrol", "-o", "show", "job", &id]);
        (!job.contains("Restarts=0")).then_some(())
    });
    let _ = cluster.node("n2", "start");
    wait_for("steps after the resume", || (steps(&run) > before + 30).then_some(()));
    assert_eq!(cluster.job_of(&run), id, "the same job");
    assert!(fs::read_to_string(run.join("logs/rank0.log")).unwrap().contains("resumes from"));
    let stopped = std::process::Command::new("kill").arg(launcher.id().to_string()).status().unwrap();
    assert!(stopped.success());
    let ended = finish(launcher);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("was requeued"), "{}", ended.stderr);
    check_same(&run, &reference(&cluster, steps(&run), &[&[LONG][..], &ONE_BY_FOUR].concat()));
}

/// Slurm signals the ranks before the time limit: they save, the script requeues the job, and it resumes.
#[test]
fn a_run_that_reaches_its_time_limit_goes_on() {
    let cluster = Cluster::shared();
    let dir = cluster.dir.path().join("runs");
    let executor = cluster.executor("short", "time: 1\nsignal_s: 50");
    let arguments = tiny(&dir, "run", &[LONG, "finetune.log.ckpt.every_n_train_steps=null"]);
    let launcher = start(cluster.neva_run(&words(&arguments, &["--executor", &executor])));
    let run = wait_for("a run", || newest(&dir, "run"));
    let id = cluster.job_of(&run);
    wait_for("a requeue", || {
        let job = cluster.output(&["scontrol", "-o", "show", "job", &id]);
        job.contains("Restarts=1").then_some(())
    });
    let before = steps(&run);
    wait_for("steps after the resume", || (steps(&run) > before + 20).then_some(()));
    let log = fs::read_to_string(run.join("logs/rank0.log")).unwrap();
    assert!(log.contains("stopped by SIGUSR1") && log.contains("resumes from"), "{log}");
    let stopped = std::process::Command::new("kill").arg(launcher.id().to_string()).status().unwrap();
    assert!(stopped.success());
    assert_eq!(finish(launcher).code, Some(1));
    check_same(
        &run,
        &reference(&cluster, before + 20, &[LONG, "finetune.log.ckpt.every_n_train_steps=null"]),
    );
}
