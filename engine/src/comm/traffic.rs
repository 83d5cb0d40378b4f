//! Counters of the calls and bytes that a rank sends.

use super::process_group::{ProcessGroup, Reduce, Work};
use crate::comm_error::CommError;
use crate::profiler::Profiler;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use tch::Tensor;

/// Calls and bytes that one rank sent through one group, by operation.
pub type Traffic = BTreeMap<&'static str, Sent>;

/// Totals of one operation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sent {
    /// Number of calls.
    pub calls: u64,
    /// Bytes that this rank sends in a ring of `p` ranks with equal load on every link. For `n` bytes, an all-reduce
    /// sends `2 n (p - 1) / p`, a reduce-scatter `n (p - 1) / p`, an all-gather of shards of `n` bytes `n (p - 1)`, a
    /// broadcast or a transfer `n`.
    pub bytes: u64,
}

/// Process group that counts its calls and bytes, and records them in a profile.
#[derive(Debug)]
pub(super) struct Counted {
    name: &'static str,
    inner: Arc<dyn ProcessGroup>,
    traffic: Mutex<Traffic>,
    profiler: OnceLock<Profiler>,
}

impl Counted {
    pub(super) fn new(name: &'static str, inner: Arc<dyn ProcessGroup>) -> Self {
        Self {
            name,
            inner,
            traffic: Mutex::default(),
            profiler: OnceLock::new(),
        }
    }

    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    pub(super) fn traffic(&self) -> Traffic {
        self.traffic.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Records the calls from now on. A group has one profiler.
    pub(super) fn record(&self, profiler: &Profiler) {
        let _ = self.profiler.set(profiler.clone());
    }

    /// Counts a call that sends `bytes`.
    fn count(&self, operation: &'static str, bytes: u64) {
        let mut traffic = self.traffic.lock().unwrap_or_else(PoisonError::into_inner);
        let sent = traffic.entry(operation).or_default();
        sent.calls += 1;
        sent.bytes += bytes;
    }

    /// Starts an operation that sends `times / over` of the bytes of `tensor`.
    fn send_counted(
        &self,
        operation: &'static str,
        tensor: &Tensor,
        [times, over]: [usize; 2],
        start: impl FnOnce(&dyn ProcessGroup) -> Result<Work, CommError>,
    ) -> Result<Work, CommError> {
        let bytes = (size(tensor) * times / over) as u64;
        self.count(operation, bytes);
        self.timed(operation, bytes, start)
    }

    /// Starts an operation whose wait is recorded.
    fn timed(
        &self,
        operation: &'static str,
        bytes: u64,
        start: impl FnOnce(&dyn ProcessGroup) -> Result<Work, CommError>,
    ) -> Result<Work, CommError> {
        let recorded = self.profiler.get().and_then(|profiler| Some((profiler.clone(), profiler.now()?)));
        let work = start(&*self.inner)?;
        let Some((profiler, started)) = recorded else { return Ok(work) };
        let names = [operation, self.name];
        let start = [started, profiler.now().unwrap_or(started)];
        Ok(Work::new(move || profiler.collective(names, bytes, start, || work.wait())))
    }
}

/// Returns the bytes of a tensor.
fn size(tensor: &Tensor) -> usize {
    tensor.numel() * tensor.kind().elt_size_in_bytes()
}

impl ProcessGroup for Counted {
    fn rank(&self) -> usize {
        self.inner.rank()
    }

    fn size(&self) -> usize {
        self.inner.size()
    }

    fn start_all_reduce(&self, tensor: &Tensor, reduce: Reduce) -> Result<Work, CommError> {
        let share = [2 * (self.size() - 1), self.size()];
        self.send_counted("all_reduce", tensor, share, |group| group.start_all_reduce(tensor, reduce))
    }

    fn start_all_gather(&self, into: &Tensor, tensor: &Tensor) -> Result<Work, CommError> {
        let share = [self.size() - 1, 1];
        self.send_counted("all_gather", tensor, share, |group| group.start_all_gather(into, tensor))
    }

    fn start_reduce_scatter(&self, into: &Tensor, tensor: &Tensor) -> Result<Work, CommError> {
        let share = [self.size() - 1, self.size()];
        self.send_counted("reduce_scatter", tensor, share, |group| group.start_reduce_scatter(into, tensor))
    }

    fn start_broadcast(&self, tensor: &Tensor, root: usize) -> Result<Work, CommError> {
        self.send_counted("broadcast", tensor, [1, 1], |group| group.start_broadcast(tensor, root))
    }

    fn send(&self, tensor: &Tensor, to: usize, tag: u32) -> Result<Work, CommError> {
        self.send_counted("send", tensor, [1, 1], |group| group.send(tensor, to, tag))
    }

    fn recv(&self, into: &Tensor, from: usize, tag: u32) -> Result<Work, CommError> {
        self.timed("recv", size(into) as u64, |group| group.recv(into, from, tag))
    }
}
