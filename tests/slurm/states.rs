//! Each way in which a job can end or wait on Slurm is reported rightly: the rows of the table that was seen on 22.05.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use neva_executors::{Executor, JobHandle, JobState, JobStatus, SlurmExecutor, slurm::job_number};
use neva_schemas::{ScriptPlan, SlurmExecutorConfig, exit_class};
use neva_tests::DEADLINE;

use crate::{
    cluster::Cluster,
    state_cases::{CASES, Case, Expected, SLOW},
};

/// Returns the options of a job that Slurm holds.
pub(crate) fn held() -> Option<std::collections::BTreeMap<String, Option<neva_schemas::SlurmParameter>>> {
    crate::state_cases::parameter("hold")
}

/// Returns an executor for jobs of one process.
pub(crate) fn executor(cluster: &Cluster, settings: impl FnOnce(&mut SlurmExecutorConfig)) -> SlurmExecutor {
    let mut config = SlurmExecutorConfig {
        gpus_per_node: Some(0),
        status_interval_s: 1,
        ..SlurmExecutorConfig::default()
    };
    settings(&mut config);
    SlurmExecutor::new(config, Arc::new(cluster.tunnel()), "neva-rank")
}

/// Submits a script in the folder `name`.
pub(crate) async fn submit(cluster: &Cluster, executor: &SlurmExecutor, name: &str, script: &str) -> JobHandle {
    let run_dir = cluster.dir.path().join(name);
    let plan = ScriptPlan {
        name: "state".into(),
        working_directory: run_dir.clone(),
        run_dir,
        text: script.into(),
        entrypoint: vec!["sh".into()],
        args: Vec::new(),
        env: std::collections::BTreeMap::new(),
    };
    executor.submit(&executor.render_script(&plan).unwrap()).await.unwrap()
}

/// Polls the status of a job until `done`.
pub(crate) async fn wait(executor: &dyn Executor, job: &JobHandle, what: &str, done: impl Fn(&JobStatus) -> bool) -> JobStatus {
    let started = Instant::now();
    loop {
        let status = executor.status(job).await.unwrap();
        if done(&status) {
            return status;
        }
        assert!(started.elapsed() < DEADLINE, "{what}: {status:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn check(cluster: &Cluster, case: &Case) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let executor = executor(cluster, case.settings);
        let job = submit(cluster, &executor, &case.name.replace(' ', "-"), case.script).await;
        let number = job_number(&job).unwrap();
        let waits_at_first = matches!(case.expected, Expected::Waits(..)) || case.name.contains("waits");
        if !waits_at_first || case.script.starts_with("sleep") {
            // A job that nobody disturbs may have ended already.
            wait(&executor, &job, case.name, |status| status.state != JobState::Pending).await;
        }
        if case.script.contains("sleep") {
            // Slurm calls a job running before srun has started the script.
            let log = cluster.dir.path().join(case.name.replace(' ', "-")).join("logs/rank0.log");
            neva_tests::wait_for(case.name, || log.exists().then_some(()));
        }
        (case.disturb)(cluster, &number);
        match case.expected {
            Expected::Waits(reason, restarts) => {
                let status = wait(&executor, &job, case.name, |status| {
                    status.state == JobState::Pending && status.reason.as_deref() == Some(reason)
                })
                .await;
                assert!(status.restarts >= restarts, "{}: {status:?}", case.name);
                let _ = cluster.output(&["scancel", &number]);
            }
            _ => {
                let status = wait(&executor, &job, case.name, |status| status.state.is_end()).await;
                match (&case.expected, &status.state) {
                    (Expected::Succeeded, JobState::Succeeded) | (Expected::Cancelled, JobState::Cancelled) => {}
                    (Expected::Failed(class, message), JobState::Failed(failure)) => {
                        assert_eq!(failure.class, *class, "{}: {failure}", case.name);
                        assert!(failure.to_string().contains(message), "{}: {failure}", case.name);
                    }
                    _ => panic!("{}: {status:?}", case.name),
                }
            }
        }
    });
}

fn check_all(cluster: &Cluster, cases: &[Case]) {
    std::thread::scope(|scope| {
        let threads: Vec<_> = cases.iter().map(|case| (case.name, scope.spawn(|| check(cluster, case)))).collect();
        let failed: Vec<_> = threads
            .into_iter()
            .filter_map(|(name, thread)| thread.join().is_err().then_some(name))
            .collect();
        assert!(failed.is_empty(), "{failed:?}");
    });
}

#[test]
fn each_row_of_the_table_is_reported() {
    let cluster = Cluster::start("states", &["--set", "SlurmdTimeout=60"]);
    // Job 1, which succeeds.
    let _ = cluster.output(&["sbatch", "--wait", "--output=/dev/null", "--wrap", "true"]);
    check_all(&cluster, CASES);
    // Rows that take minutes: `make soak`.
    if std::env::var_os("NEVA_SOAK_SLURM").is_some() {
        check_all(&cluster, SLOW);
    }
}

/// A job of lower priority gives way: it is requeued in one partition, and cancelled in the other.
#[test]
fn preempted_jobs_are_reported() {
    let cluster = Cluster::start("preempt", &["--nodes", "1", "--cpus", "2", "--set", "SlurmdTimeout=60"]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        for (partition, name) in [("low", "requeued"), ("lowkill", "ended")] {
            let low = executor(&cluster, |config| {
                config.partition = Some(partition.into());
                config.exclusive = serde_json::from_value(true.into()).unwrap();
            });
            let job = submit(&cluster, &low, name, "sleep 100").await;
            wait(&low, &job, name, |status| status.state == JobState::Running).await;
            let high = executor(&cluster, |config| config.exclusive = serde_json::from_value(true.into()).unwrap());
            let other = submit(&cluster, &high, &format!("high-{name}"), "sleep 5").await;
            if partition == "low" {
                wait(&low, &job, name, |status| status.state == JobState::Pending && status.restarts == 1).await;
                let _ = cluster.output(&["scancel", &job_number(&job).unwrap()]);
            } else {
                let status = wait(&low, &job, name, |status| status.state.is_end()).await;
                let JobState::Failed(failure) = status.state else {
                    panic!("{status:?}")
                };
                assert!(
                    failure.to_string().contains("preempted") && failure.class == exit_class::CLUSTER,
                    "{failure}"
                );
            }
            wait(&high, &other, "the other one", |status| status.state == JobState::Succeeded).await;
        }
    });
}

/// A node that crashes under a job that may not be requeued.
#[test]
fn a_lost_node_is_reported() {
    let cluster = Cluster::start("lost", &["--set", "SlurmdTimeout=10"]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let executor = executor(&cluster, |config| {
            config.additional_parameters = serde_json::from_value(serde_json::json!({ "requeue": false, "no-requeue": true })).unwrap();
        });
        let job = submit(&cluster, &executor, "lost", "sleep 300").await;
        let status = wait(&executor, &job, "a start", |status| status.state == JobState::Running).await;
        let _ = cluster.node(&status.nodes[0], "crash");
        let status = wait(&executor, &job, "an end", |status| status.state.is_end()).await;
        let JobState::Failed(failure) = status.state else {
            panic!("{status:?}")
        };
        assert_eq!(failure.class, exit_class::CLUSTER);
        assert!(
            failure.to_string().contains(&format!("node {} failed", status.nodes[0])),
            "{failure}"
        );
    });
}

/// The controller forgets ended jobs. The accounting database knows them, and where there is none, the jobs' own files.
#[test]
fn a_forgotten_job_is_reported() {
    for (name, options) in [("forgets", &[][..]), ("account", &["--accounting"])] {
        let options = [&["--set", "MinJobAge=2", "--set", "SlurmdTimeout=60"][..], options].concat();
        let cluster = Cluster::start(name, &options);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let executor = executor(&cluster, |_| {});
            let good = submit(&cluster, &executor, "good", "exit 0").await;
            let bad = submit(&cluster, &executor, "bad", "echo words; exit 5").await;
            for job in [&good, &bad] {
                wait(&executor, job, "an end", |status| status.state.is_end()).await;
            }
            neva_tests::wait_for("the controller forgets them", || {
                cluster.output(&["squeue", "-h", "-t", "all"]).is_empty().then_some(())
            });
            if name == "account" {
                // Only the database is left.
                for job in ["good", "bad"] {
                    std::fs::remove_file(cluster.dir.path().join(job).join("slurm.status")).unwrap();
                }
            }
            assert_eq!(executor.status(&good).await.unwrap().state, JobState::Succeeded);
            let JobState::Failed(failure) = executor.status(&bad).await.unwrap().state else {
                panic!("it failed")
            };
            assert!(failure.to_string().contains("exit code 5"), "{failure}");
        });
    }
}

/// The folder of a job is not on the node.
#[test]
fn a_folder_that_is_not_shared_is_reported() {
    let cluster = Cluster::start("unshared", &["--set", "SlurmdTimeout=60"]);
    let hidden: PathBuf = cluster.dir.path().join("hidden");
    std::fs::create_dir(&hidden).unwrap();
    for node in ["n1", "n2"] {
        cluster.hide(node, &hidden);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let executor = executor(&cluster, |_| {});
        let job = submit(&cluster, &executor, "hidden/run", "exit 0").await;
        let status = wait(&executor, &job, "an end", |status| status.state.is_end()).await;
        let JobState::Failed(failure) = status.state else {
            panic!("{status:?}")
        };
        assert!(
            failure.to_string().contains("cannot write") && failure.class == exit_class::CLUSTER,
            "{failure}"
        );
        assert!(failure.help.unwrap().contains("nodes share"));
    });
}
