//! What a rank sends, counted.

use super::collective::{Collective, CommError, Pending, Reduce};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use tch::Tensor;

/// What one rank sent through one group, by operation.
pub type Traffic = BTreeMap<&'static str, Sent>;

/// Operations of one kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sent {
    /// How many.
    pub calls: u64,
    /// Bytes that this rank sends in a ring of `p` ranks, in which every link carries as much as any other: of `n`
    /// bytes, an all-reduce sends `2 n (p - 1) / p`, a reduce-scatter `n (p - 1) / p`, an all-gather of parts of `n`
    /// bytes `n (p - 1)`, a broadcast or a transfer `n`.
    pub bytes: u64,
}

/// A group that counts what goes through it.
#[derive(Debug)]
pub(super) struct Counted {
    inner: Arc<dyn Collective>,
    traffic: Mutex<Traffic>,
}

impl Counted {
    pub(super) fn new(inner: Arc<dyn Collective>) -> Self {
        Self {
            inner,
            traffic: Mutex::default(),
        }
    }

    pub(super) fn traffic(&self) -> Traffic {
        self.traffic.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Counts `tensor`, of whose bytes `times / over` are sent.
    fn count(&self, operation: &'static str, tensor: &Tensor, times: usize, over: usize) {
        let bytes = tensor.numel() * tensor.kind().elt_size_in_bytes();
        let mut traffic = self.traffic.lock().unwrap_or_else(PoisonError::into_inner);
        let sent = traffic.entry(operation).or_default();
        sent.calls += 1;
        sent.bytes += (bytes * times / over) as u64;
    }
}

impl Collective for Counted {
    fn rank(&self) -> usize {
        self.inner.rank()
    }

    fn size(&self) -> usize {
        self.inner.size()
    }

    fn start_all_reduce(&self, tensor: &Tensor, reduce: Reduce) -> Result<Pending, CommError> {
        self.count("all_reduce", tensor, 2 * (self.size() - 1), self.size());
        self.inner.start_all_reduce(tensor, reduce)
    }

    fn start_all_gather(&self, into: &Tensor, tensor: &Tensor) -> Result<Pending, CommError> {
        self.count("all_gather", tensor, self.size() - 1, 1);
        self.inner.start_all_gather(into, tensor)
    }

    fn start_reduce_scatter(&self, into: &Tensor, tensor: &Tensor) -> Result<Pending, CommError> {
        self.count("reduce_scatter", tensor, self.size() - 1, self.size());
        self.inner.start_reduce_scatter(into, tensor)
    }

    fn start_broadcast(&self, tensor: &Tensor, root: usize) -> Result<Pending, CommError> {
        self.count("broadcast", tensor, 1, 1);
        self.inner.start_broadcast(tensor, root)
    }

    fn send(&self, tensor: &Tensor, to: usize, tag: u32) -> Result<Pending, CommError> {
        self.count("send", tensor, 1, 1);
        self.inner.send(tensor, to, tag)
    }

    fn recv(&self, into: &Tensor, from: usize, tag: u32) -> Result<Pending, CommError> {
        self.inner.recv(into, from, tag)
    }
}
