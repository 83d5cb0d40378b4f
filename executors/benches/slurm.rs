//! What watching jobs on Slurm costs, against a tunnel that answers at once: a table of measured values and their bounds.
//!
//!     cargo bench --workspace --bench slurm
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a benchmark prints a table, and stops where it cannot measure"
)]

#[path = "../tests/suite/fake_slurm.rs"]
mod fake_slurm;
mod table;
mod watched;

use std::{
    process::ExitCode,
    sync::{Arc, Mutex},
    time::Duration,
};

use neva_executors::{Executor as _, JobHandle, JobState, SlurmExecutor};
use neva_schemas::SlurmExecutorConfig;

use self::{
    fake_slurm::{Count, FakeSlurm},
    table::print_table,
    watched::follow,
};

const JOBS: usize = 1000;
const RANKS: u32 = 64;
/// Bytes that each rank writes between two reads: a line of a step.
const LINE: &str = "step 1234, loss 2.34567, learning rate 1.0e-4, 12.3 samples/s\n";
const WATCHED: Duration = Duration::from_secs(20);

/// A cluster of which every job runs, or has been forgotten by the controller.
fn cluster() -> Arc<FakeSlurm> {
    Arc::new(FakeSlurm {
        forgets: |job, _| job.parse::<usize>().unwrap().is_multiple_of(10),
        records: |job| !job.parse::<usize>().unwrap().is_multiple_of(20),
        has_status: |_| true,
        delay: Duration::ZERO,
        line: LINE,
        count: Count::default(),
        failures: Mutex::default(),
    })
}

fn executor(cluster: &Arc<FakeSlurm>) -> SlurmExecutor {
    SlurmExecutor::new(SlurmExecutorConfig::default(), cluster.clone(), "neva-rank")
}

/// Returns the number of queries to Slurm, and of all commands, for the status of many jobs.
async fn status_of_many() -> (usize, usize) {
    let cluster = cluster();
    let jobs: Vec<_> = (1..=JOBS).map(|job| JobHandle(format!("slurm://login/{job}/runs/{job}"))).collect();
    let statuses = executor(&cluster).statuses(&jobs).await;
    let count = |state: &JobState| statuses.iter().filter(|status| status.as_ref().unwrap().state == *state).count();
    assert_eq!((count(&JobState::Running), count(&JobState::Succeeded)), (JOBS * 9 / 10, JOBS / 10));
    let [squeue, sacct, reads] = cluster.count.get();
    (squeue + sacct, squeue + sacct + reads)
}

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (queries, commands) = runtime.block_on(status_of_many());
    let cluster = cluster();
    let job = JobHandle("slurm://login/1/runs/1".into());
    let (share, bytes) = runtime.block_on(follow(&executor(&cluster), &job, RANKS, WATCHED));
    print_table([
        ("queries to Slurm for the status of 1,000 jobs".to_owned(), queries as f64, 3.0),
        ("commands for it, files of ended jobs included".to_owned(), commands as f64, 3.0),
        (
            format!("% of a core to follow 64 ranks ({bytes} bytes in 20 s)"),
            100.0 * share,
            5.0,
        ),
    ])
}
