//! Measures what following the output of a job costs.

use std::{
    fs,
    time::{Duration, Instant},
};

use futures_util::StreamExt as _;
use neva_executors::{Executor, JobEvent, JobHandle, WatchFrom};

/// Follows the output of all ranks, and returns the share of a core that it takes, and the bytes that arrived.
pub(crate) async fn follow(executor: &dyn Executor, job: &JobHandle, ranks: u32, time: Duration) -> (f64, u64) {
    let from = WatchFrom((0..ranks).map(|rank| (rank, 0)).collect());
    let mut events = executor.watch(job, from);
    let (started, before) = (Instant::now(), cpu_seconds());
    let mut bytes = 0;
    while started.elapsed() < time {
        let next = tokio::time::timeout(Duration::from_secs(1), events.next()).await;
        if let Ok(Some(Ok(JobEvent::Output { bytes: chunk, .. }))) = next {
            bytes += chunk.len() as u64;
        }
    }
    ((cpu_seconds() - before) / started.elapsed().as_secs_f64(), bytes)
}

/// Returns the processor time of this process.
fn cpu_seconds() -> f64 {
    let text = fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = text.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: f64 = [fields[11], fields[12]].iter().map(|ticks| ticks.parse::<f64>().unwrap()).sum();
    ticks / 100.0
}
