//! Watches of many jobs of Slurm share their commands.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::{StreamExt as _, future::join_all};
use neva_executors::{Executor as _, JobEvent, JobHandle, JobState, SlurmExecutor, WatchFrom};
use neva_schemas::SlurmExecutorConfig;

use crate::{
    fake_slurm::{Count, FakeSlurm},
    support::DEADLINE,
};

/// Queries after which the controller has forgotten the jobs.
const RUNNING: usize = 3;

fn cluster(failures: Vec<&'static str>) -> Arc<FakeSlurm> {
    Arc::new(FakeSlurm {
        forgets: |_, earlier| earlier >= RUNNING,
        records: |_| true,
        has_status: |id| id != "7_0",
        delay: Duration::from_millis(20),
        line: "",
        count: Count::default(),
        failures: Mutex::new(failures),
    })
}

/// Watches the tasks of an array until all have ended. Returns how often each lost its connection.
fn watch_all(cluster: &Arc<FakeSlurm>, tasks: usize) -> Vec<usize> {
    let executor = SlurmExecutor::new(SlurmExecutorConfig::default(), cluster.clone(), "neva-rank");
    let jobs: Vec<_> = (0..tasks)
        .map(|task| JobHandle(format!("slurm://login/7_{task}/runs/7_{task}")))
        .collect();
    let watch = |job| {
        let mut events = executor.watch(job, WatchFrom::rank0());
        async move {
            let mut lost = 0;
            while let Some(event) = events.next().await {
                match event.unwrap() {
                    JobEvent::ConnectionLost { .. } => lost += 1,
                    JobEvent::Ended(end) => {
                        assert_eq!(end.state, JobState::Succeeded);
                        return lost;
                    }
                    _ => (),
                }
            }
            panic!("the watch of {job} has no end")
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let all = async { tokio::time::timeout(DEADLINE, join_all(jobs.iter().map(watch))).await };
    runtime.block_on(all).expect("all jobs end")
}

#[test]
fn the_end_of_an_array_costs_as_many_commands_as_that_of_one_task() {
    let commands = |tasks| {
        let cluster = cluster(Vec::new());
        assert_eq!(watch_all(&cluster, tasks), vec![0; tasks]);
        cluster.count.get()
    };
    let (one, many) = (commands(1), commands(400));
    for (program, one, many) in [("squeue", one[0], many[0]), ("sacct", one[1], many[1]), ("read", one[2], many[2])] {
        assert!(
            one > 0 && many <= 4 * one + 8,
            "{program}: {many} commands for 400 tasks, {one} for one"
        );
    }
}

#[test]
fn an_unreachable_database_delays_only_jobs_that_need_it() {
    let cluster = cluster(vec!["sacct: error: Connection refused"]);
    // `slurm.status` in the folders of the others tells how they ended.
    assert_eq!(watch_all(&cluster, 3), [1, 0, 0]);
}
