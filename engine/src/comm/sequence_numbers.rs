//! Finds the ranks of a Gloo group that took part in a failed collective. c10d reports only a timeout.
//!
//! Nothing is written in normal operation. A rank whose call fails writes to the store how many collectives it has
//! started. The first rank to time out closes its connections, so the calls of all others fail, too. A rank that writes
//! nothing then was not in the call.

use super::process_group::within_limit;
use neva_torch_ffi::Store;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Time that the other ranks have to publish their count after a failed call.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Sequence numbers of a group: the number of collectives that each rank has started, in the store.
#[derive(Debug, Clone)]
pub(super) struct SequenceNumbers {
    store: Arc<Store>,
    group: String,
    rank: usize,
    size: usize,
}

impl SequenceNumbers {
    /// Creates the entry of rank `rank` in the group `group` of `size` ranks.
    pub(super) fn new(store: Arc<Store>, group: &str, rank: usize, size: usize) -> Self {
        Self {
            store,
            group: group.to_owned(),
            rank,
            size,
        }
    }

    /// Writes that this rank has started `count` collectives. Ignores a lost store: later calls report it.
    pub(super) fn publish(&self, count: u64) {
        let own = self.clone();
        let _ = within_limit(ANSWER_TIMEOUT, move || {
            own.store.set(&own.key(own.rank), count.to_string().as_bytes())
        });
    }

    /// Publishes `count` and describes which ranks have started that collective.
    pub(super) fn report(&self, count: u64) -> String {
        self.publish(count);
        let own = self.clone();
        let counts = within_limit(2 * ANSWER_TIMEOUT, move || own.counts()).unwrap_or_else(|| vec![None; self.size]);
        let others = || (0..self.size).zip(&counts).filter(|(rank, _)| *rank != self.rank);
        let has_started = |seen: &Option<u64>| seen.is_some_and(|seen| seen >= count);
        let mut arrived: Vec<_> = others().filter(|(_, seen)| has_started(seen)).map(|(rank, _)| rank).collect();
        let silent: Vec<_> = others().filter(|(_, seen)| seen.is_none()).map(|(rank, _)| rank).collect();
        arrived.push(self.rank);
        arrived.sort_unstable();
        describe_participants(self.size, &arrived, &silent)
    }

    #[expect(clippy::disallowed_methods, reason = "polls the store, which has no notification, with a deadline")]
    fn counts(&self) -> Vec<Option<u64>> {
        let asked = Instant::now();
        let mut counts = vec![None; self.size];
        loop {
            for (rank, count) in counts.iter_mut().enumerate().filter(|(_, count)| count.is_none()) {
                match self.read(rank) {
                    Ok(seen) => *count = seen,
                    // The rank that serves the store is gone.
                    Err(_) => return counts,
                }
            }
            if counts.iter().all(Option::is_some) || asked.elapsed() >= ANSWER_TIMEOUT {
                return counts;
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    fn read(&self, rank: usize) -> neva_torch_ffi::Result<Option<u64>> {
        let key = self.key(rank);
        if !self.store.check(&[&key])? {
            return Ok(None);
        }
        let text = self.store.get(&key, ANSWER_TIMEOUT)?;
        Ok(std::str::from_utf8(&text).ok().and_then(|text| text.parse().ok()))
    }

    fn key(&self, rank: usize) -> String {
        format!("started/{}/{rank}", self.group)
    }
}

/// Describes which of `ranks` ranks took part in a call.
pub(super) fn describe_participants(ranks: usize, arrived: &[usize], silent: &[usize]) -> String {
    let unknown = match silent {
        [] => String::new(),
        _ => format!(", {silent:?} did not answer"),
    };
    format!("of {ranks} ranks only {arrived:?} arrived{unknown}")
}
