//! Follows the output of the pods of one index, one after the other, also across lost connections: lines have timestamps, so those
//! that were already reported are skipped.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use k8s_openapi::jiff::Timestamp;
use kube::api::LogParams;
use tokio::{
    sync::{mpsc, watch},
    time::{sleep, timeout},
};

use super::{
    KubernetesExecutor,
    handle::KubernetesJob,
    line::{Line, with_timestamp},
    logs,
    pod::{PodPhase, PodState, pod_states},
    refusal,
    shared::Shared,
};
use crate::error::ExecutorError;

/// Longest wait for news of a pod.
const TICK: Duration = Duration::from_secs(1);

/// Output of a rank.
#[derive(Debug)]
pub(super) struct RankOutput {
    pub(super) rank: u32,
    pub(super) bytes: Vec<u8>,
    pub(super) next: u64,
}

/// Follows the pods of one index of a job.
pub(super) struct Follower {
    pub(super) executor: KubernetesExecutor,
    pub(super) shared: Arc<Shared>,
    pub(super) job: KubernetesJob,
    pub(super) index: u32,
    /// Ranks to report, each with the offset from which on.
    pub(super) from: BTreeMap<u32, u64>,
    pub(super) output: mpsc::Sender<RankOutput>,
    /// True once the job has ended.
    pub(super) over: watch::Receiver<bool>,
}

/// Place in the output of a pod.
#[derive(Debug, Default)]
struct Place {
    /// Timestamp of the last line, and number of lines with it.
    last: String,
    count: usize,
}

impl Place {
    /// Returns the second of the last line, from which on the output is read again. Requests name whole seconds, and kube rounds to
    /// the nearest: lines up to half a second after the last one would be lost.
    fn since(&self) -> Option<Timestamp> {
        let last: Timestamp = self.last.parse().ok()?;
        Timestamp::from_second(last.as_second()).ok()
    }

    /// Returns true if a line comes after those that were reported. Times of one form are compared as text.
    fn is_new(&mut self, time: &str, repeated: &mut usize) -> bool {
        let (time_key, last_key) = (sortable(time), sortable(&self.last));
        if time_key < last_key {
            return false;
        }
        if time_key == last_key {
            *repeated += 1;
            if *repeated <= self.count {
                return false;
            }
            self.count += 1;
            return true;
        }
        self.last = time.to_owned();
        self.count = 1;
        *repeated = 1;
        true
    }
}

/// Returns the seconds and the fraction of a time: `...:05.1Z` comes before `...:05.12Z` and behind `...:05Z`.
fn sortable(time: &str) -> (&str, &str) {
    let time = time.trim_end_matches('Z');
    time.split_once('.').unwrap_or((time, ""))
}

/// End of one read of a pod.
enum Read {
    /// The connection ended; the pod may still run.
    Ended,
    /// There is no output: the container has not started, or the pod is gone.
    Nothing,
    /// Nobody takes the output any more.
    Closed,
}

impl Follower {
    /// Follows until the job has ended and all of its output was reported.
    pub(super) async fn run(mut self) {
        let mut positions: BTreeMap<u32, u64> = self.from.keys().map(|rank| (*rank, 0)).collect();
        let mut changes = self.shared.changes();
        let mut done = Vec::<String>::new();
        loop {
            let is_over = *self.over.borrow();
            let pods = pod_states(&self.shared.pods(&self.job.uid));
            let next = pods.into_iter().find(|pod| pod.index == self.index && !done.contains(&pod.name));
            match next {
                None if is_over => return,
                Some(pod) if pod.phase == PodPhase::Waiting && is_over => done.push(pod.name),
                Some(pod) if pod.phase != PodPhase::Waiting => {
                    if !self.pod(&pod, &mut positions).await {
                        return;
                    }
                    done.push(pod.name);
                }
                _ => {
                    tokio::select! {
                        _ = changes.changed() => {}
                        _ = self.over.changed() => {}
                        () = sleep(TICK) => {}
                    }
                }
            }
        }
    }

    /// Reports the output of a pod to its end. Returns false if nobody takes it any more.
    async fn pod(&mut self, pod: &PodState, positions: &mut BTreeMap<u32, u64>) -> bool {
        let mut place = Place::default();
        loop {
            // Read before the output is, so that what a pod wrote before its end is not missed.
            let current = pod_states(&self.shared.pods(&self.job.uid))
                .into_iter()
                .find(|state| state.name == pod.name);
            let has_ended = *self.over.borrow() || current.is_none_or(|state| state.end().is_some());
            match self.read(&pod.name, has_ended, &mut place, positions).await {
                Ok(Read::Closed) => return false,
                Ok(Read::Ended | Read::Nothing) if has_ended => return true,
                // The container ended; the news of it follow.
                Ok(_) => {
                    let mut changes = self.shared.changes();
                    let _ = timeout(TICK, changes.changed()).await;
                }
                Err(error) => {
                    tracing::debug!(pod = pod.name, "output: {}", error.reason());
                    if refusal::is_lost(&error) {
                        self.executor.forget().await;
                    } else if has_ended {
                        return true;
                    }
                    sleep(TICK).await;
                }
            }
        }
    }

    async fn read(&self, pod: &str, has_ended: bool, place: &mut Place, positions: &mut BTreeMap<u32, u64>) -> Result<Read, ExecutorError> {
        let cluster = self.executor.cluster_of(&self.job).await?;
        let params = LogParams {
            follow: !has_ended,
            timestamps: true,
            since_time: place.since(),
            ..logs::params()
        };
        let Some(mut stream) = logs::open(&cluster, pod, &params).await? else {
            return Ok(Read::Nothing);
        };
        let (mut line, mut repeated) = (Vec::new(), 0);
        while logs::read_line(&cluster, &mut stream, &mut line).await? {
            // A connection that was cut in the middle of a line: it is read again.
            if line.last() != Some(&b'\n') {
                break;
            }
            let Some((time, text)) = with_timestamp(&line) else { continue };
            if !place.is_new(time, &mut repeated) {
                continue;
            }
            let Line::Rank(rank, bytes) = Line::parse(text) else { continue };
            let (Some(position), Some(from)) = (positions.get_mut(&rank), self.from.get(&rank)) else {
                continue;
            };
            let skip = usize::try_from(from.saturating_sub(*position))
                .unwrap_or(usize::MAX)
                .min(bytes.len());
            *position += bytes.len() as u64;
            if skip == bytes.len() {
                continue;
            }
            let output = RankOutput {
                rank,
                bytes: bytes[skip..].to_vec(),
                next: *position,
            };
            if self.output.send(output).await.is_err() {
                return Ok(Read::Closed);
            }
        }
        Ok(Read::Ended)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_reported_once_across_reads() {
        let mut place = Place::default();
        let mut read = |times: &[&str]| {
            let mut repeated = 0;
            times.iter().filter(|time| place.is_new(time, &mut repeated)).count()
        };
        assert_eq!(
            read(&["2026-01-01T00:00:01.1Z", "2026-01-01T00:00:01.2Z", "2026-01-01T00:00:01.2Z"]),
            3
        );
        // Since the second of the last line: all again, and two more of the same time.
        let again = [
            "2026-01-01T00:00:01.1Z",
            "2026-01-01T00:00:01.2Z",
            "2026-01-01T00:00:01.2Z",
            "2026-01-01T00:00:01.2Z",
        ];
        assert_eq!(read(&again), 1);
        assert_eq!(
            read(&["2026-01-01T00:00:01.2Z", "2026-01-01T00:00:01.25Z", "2026-01-01T00:00:02Z"]),
            2
        );
        assert_eq!(read(&["2026-01-01T00:00:02Z"]), 0);
        assert_eq!(read(&["2026-01-01T00:00:02.9Z"]), 1);
        assert_eq!(place.since(), Some("2026-01-01T00:00:02Z".parse().unwrap()));
    }
}
