//! Counters of the calls and bytes that a rank sends.

use super::process_group::{ProcessGroup, Reduce, Work};
use crate::comm_error::CommError;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
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

/// Process group that counts its calls and bytes.
#[derive(Debug)]
pub(super) struct Counted {
    inner: Arc<dyn ProcessGroup>,
    traffic: Mutex<Traffic>,
}

impl Counted {
    pub(super) fn new(inner: Arc<dyn ProcessGroup>) -> Self {
        Self {
            inner,
            traffic: Mutex::default(),
        }
    }

    pub(super) fn traffic(&self) -> Traffic {
        self.traffic.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Counts a call that sends `times / over` of the bytes of `tensor`.
    fn count(&self, operation: &'static str, tensor: &Tensor, times: usize, over: usize) {
        let bytes = tensor.numel() * tensor.kind().elt_size_in_bytes();
        let mut traffic = self.traffic.lock().unwrap_or_else(PoisonError::into_inner);
        let sent = traffic.entry(operation).or_default();
        sent.calls += 1;
        sent.bytes += (bytes * times / over) as u64;
    }
}

impl ProcessGroup for Counted {
    fn rank(&self) -> usize {
        self.inner.rank()
    }

    fn size(&self) -> usize {
        self.inner.size()
    }

    fn start_all_reduce(&self, tensor: &Tensor, reduce: Reduce) -> Result<Work, CommError> {
        self.count("all_reduce", tensor, 2 * (self.size() - 1), self.size());
        self.inner.start_all_reduce(tensor, reduce)
    }

    fn start_all_gather(&self, into: &Tensor, tensor: &Tensor) -> Result<Work, CommError> {
        self.count("all_gather", tensor, self.size() - 1, 1);
        self.inner.start_all_gather(into, tensor)
    }

    fn start_reduce_scatter(&self, into: &Tensor, tensor: &Tensor) -> Result<Work, CommError> {
        self.count("reduce_scatter", tensor, self.size() - 1, self.size());
        self.inner.start_reduce_scatter(into, tensor)
    }

    fn start_broadcast(&self, tensor: &Tensor, root: usize) -> Result<Work, CommError> {
        self.count("broadcast", tensor, 1, 1);
        self.inner.start_broadcast(tensor, root)
    }

    fn send(&self, tensor: &Tensor, to: usize, tag: u32) -> Result<Work, CommError> {
        self.count("send", tensor, 1, 1);
        self.inner.send(tensor, to, tag)
    }

    fn recv(&self, into: &Tensor, from: usize, tag: u32) -> Result<Work, CommError> {
        self.inner.recv(into, from, tag)
    }
}
