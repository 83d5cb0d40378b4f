//! What watching jobs on Slurm costs, against a tunnel that answers at once: a table of measured values and their bounds.
//!
//!     cargo bench --workspace --bench slurm
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a benchmark prints a table, and stops where it cannot measure"
)]

mod table;
mod watched;

use std::{
    fmt::Write as _,
    path::Path,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use neva_executors::{
    BoxFuture, Executor as _, ExecutorError, JobHandle, JobState, SlurmExecutor,
    tunnel::{CommandEnd, CommandOutput, Tunnel, TunnelCommand, TunnelFile},
};
use neva_schemas::SlurmExecutorConfig;

use self::{table::print_table, watched::follow};

const JOBS: usize = 1000;
const RANKS: u32 = 64;
/// Bytes that each rank writes between two reads: a line of a step.
const LINE: &str = "step 1234, loss 2.34567, learning rate 1.0e-4, 12.3 samples/s\n";
const WATCHED: Duration = Duration::from_secs(20);

/// A cluster of which every job runs, or has been forgotten by the controller.
#[derive(Debug, Default)]
struct Cluster {
    queries: AtomicUsize,
    reads: AtomicUsize,
    written: AtomicU64,
}

impl Tunnel for Cluster {
    fn place(&self) -> String {
        "login".into()
    }

    fn run<'a>(&'a self, command: &'a TunnelCommand) -> BoxFuture<'a, Result<CommandOutput, ExecutorError>> {
        let mut stdout = String::new();
        let jobs = command.argv.last().cloned().unwrap_or_default();
        match command.argv[0].as_str() {
            "squeue" => {
                self.queries.fetch_add(1, Ordering::Relaxed);
                for job in jobs.split(',').filter(|job| job.parse::<usize>().unwrap() % 10 != 0) {
                    let _ = writeln!(stdout, "{job}|RUNNING|0|0|1796044543|n[1-8]|None|");
                }
            }
            "sacct" => {
                self.queries.fetch_add(1, Ordering::Relaxed);
                for job in jobs.split(',').filter(|job| job.parse::<usize>().unwrap() % 20 != 0) {
                    let _ = writeln!(stdout, "{job}|COMPLETED|0:0|1796044543|n[1-8]");
                }
            }
            _ => {
                self.reads.fetch_add(1, Ordering::Relaxed);
                self.written.fetch_add(LINE.len() as u64, Ordering::Relaxed);
                for (index, line) in String::from_utf8_lossy(&command.stdin).lines().enumerate() {
                    let path = line.splitn(3, ' ').nth(2).unwrap();
                    let text = if path.ends_with("slurm.job") {
                        format!("{} ranks key\n", path.rsplit('/').nth(1).unwrap())
                    } else if path.ends_with("slurm.status") {
                        format!("{} 0 0\n", path.rsplit('/').nth(1).unwrap())
                    } else if path.contains("rank") {
                        LINE.to_owned()
                    } else {
                        continue;
                    };
                    let _ = write!(stdout, "{} {} -\n{text}\n", index + 1, text.len());
                }
            }
        }
        Box::pin(async move {
            Ok(CommandOutput {
                end: CommandEnd::Exit(0),
                stdout: stdout.into_bytes(),
                stderr: Vec::new(),
            })
        })
    }

    fn write<'a>(&'a self, _: &'a [TunnelFile]) -> BoxFuture<'a, Result<(), ExecutorError>> {
        Box::pin(async { Ok(()) })
    }

    fn upload<'a>(&'a self, _: &'a Path, _: &'a Path) -> BoxFuture<'a, Result<(), ExecutorError>> {
        Box::pin(async { Ok(()) })
    }

    fn read<'a>(&'a self, _: &'a Path, _: u64, _: u64) -> BoxFuture<'a, Result<Option<Vec<u8>>, ExecutorError>> {
        Box::pin(async { Ok(None) })
    }
}

fn executor(cluster: &Arc<Cluster>) -> SlurmExecutor {
    SlurmExecutor::new(SlurmExecutorConfig::default(), cluster.clone(), "neva-rank")
}

/// Returns the number of queries to Slurm, and of all commands, for the status of many jobs.
async fn status_of_many() -> (usize, usize) {
    let cluster = Arc::new(Cluster::default());
    let jobs: Vec<_> = (1..=JOBS).map(|job| JobHandle(format!("slurm://login/{job}/runs/{job}"))).collect();
    let statuses = executor(&cluster).statuses(&jobs).await;
    let count = |state: &JobState| statuses.iter().filter(|status| status.as_ref().unwrap().state == *state).count();
    assert_eq!((count(&JobState::Running), count(&JobState::Succeeded)), (JOBS * 9 / 10, JOBS / 10));
    let queries = cluster.queries.load(Ordering::Relaxed);
    (queries, queries + cluster.reads.load(Ordering::Relaxed))
}

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (queries, commands) = runtime.block_on(status_of_many());
    let cluster = Arc::new(Cluster::default());
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
