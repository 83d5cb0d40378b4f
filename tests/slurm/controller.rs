//! A controller that is stopped for a while.

use std::{fs, time::Duration};

use neva_executors::{Executor as _, JobState};
use neva_schemas::exit_class;

use neva_tests::{finish, start, wait_for};

use crate::{
    cluster::{Cluster, tiny, words},
    states,
    training::{newest, steps},
};

/// Time for which the controller is away.
const AWAY: Duration = Duration::from_secs(30);

#[expect(clippy::disallowed_methods, reason = "the controller is away for a time")]
fn away() {
    std::thread::sleep(AWAY);
}

/// A running job goes on, and a submission waits.
#[test]
fn nothing_is_lost_while_the_controller_is_away() {
    let cluster = Cluster::start("control", &["--set", "SlurmdTimeout=120", "--set", "MessageTimeout=5"]);
    let dir = cluster.dir.path().join("runs");
    let executor = cluster.executor("one", "");
    let long = tiny(&dir, "running", &["finetune.trainer.max_steps=1000000"]);
    let running = start(cluster.neva_run(&words(&long, &["--executor", &executor])));
    let run = wait_for("a run", || newest(&dir, "running"));
    let first = cluster.job_of(&run);
    wait_for("steps", || (steps(&run) > 10).then_some(()));

    let _ = cluster.node("controller", "shutdown");
    let short = tiny(&dir, "submitted", &["finetune.trainer.max_steps=10"]);
    let submitted = start(cluster.neva_run(&words(&short, &["--executor", &executor])));
    away();
    let _ = cluster.node("controller", "start");

    let ended = finish(submitted).with_code(0);
    let waited = "the submission waits for it";
    assert!(
        ended.stderr.contains("Unable to contact slurm controller") && ended.stderr.contains(waited),
        "{}",
        ended.stderr
    );
    let jobs = cluster.output(&["squeue", "-h", "-t", "all", "-o", "%i %j"]);
    assert_eq!(jobs.lines().count(), 2, "one job for each run: {jobs}");

    let id = cluster.job_of(&newest(&dir, "submitted").unwrap());
    assert_ne!(id, first);
    let before = steps(&run);
    wait_for("further steps", || (steps(&run) > before + 10).then_some(()));
    let _ = cluster.output(&["squeue", "-h", "-j", &first]);
    let stopped = std::process::Command::new("kill").arg(running.id().to_string()).status().unwrap();
    assert!(stopped.success());
    let ended = finish(running).with_code(1);
    assert!(
        ended.stderr.contains("the job keeps running") && ended.stderr.contains("connection restored"),
        "{}",
        ended.stderr
    );
    let report: serde_json::Value = serde_json::from_str(&fs::read_to_string(run.join("report.json")).unwrap()).unwrap();
    assert_eq!(report["stopped"], "SIGTERM");
}

/// A controller that is killed just after a submission, before it wrote its state, does not know the job any more.
#[test]
fn a_job_that_the_controller_lost_is_reported_and_not_submitted_again() {
    let cluster = Cluster::start("amnesia", &["--set", "SlurmdTimeout=60", "--set", "MessageTimeout=5"]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let executor = states::executor(&cluster, |config| config.additional_parameters = states::held());
        let job = states::submit(&cluster, &executor, "lost", "true").await;
        let _ = cluster.node("controller", "crash");
        cluster.forget_jobs();
        let _ = cluster.node("controller", "start");
        let status = states::wait(&executor, &job, "an end", |status| status.state.is_end()).await;
        let JobState::Failed(failure) = status.state else {
            panic!("{status:?}")
        };
        assert!(
            failure.to_string().contains("its controller lost it") && failure.class == exit_class::CLUSTER,
            "{failure}"
        );
        assert!(executor.find_job(&cluster.dir.path().join("lost")).await.unwrap().is_some());
        let jobs = cluster.output(&["squeue", "-h", "-t", "all", "-o", "%i"]);
        assert_eq!(jobs, "", "no second job");
    });
}
