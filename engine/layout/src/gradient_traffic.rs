//! Bytes that a rank sends in one step because other ranks hold the same parameters, by formula; what is counted while a
//! run goes on must agree.

use crate::bucket::Bucket;
use crate::parameter::ParamSpec;
use serde::Serialize;

/// Bytes of a gradient's value.
const FP32: usize = 4;

/// Sent in a ring of `p` ranks that train the same parameters on different data.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct ReplicaTraffic {
    /// Sums of gradients of which every rank gets all, and which parameters any rank touched.
    pub all_reduce: u64,
    /// Sums of gradients of which each rank gets its share.
    pub reduce_scatter: u64,
    /// Shares of the weights.
    pub all_gather: u64,
}

impl ReplicaTraffic {
    /// One step with gradients in `buckets` over `ranks` ranks. `weight_bytes` is the size of a weight where each rank
    /// updates its share, `None` where each updates all.
    ///
    /// Of `n` values in all buckets, padding included, an all-reduce sends `2 * 4 n (p - 1) / p` bytes; a
    /// reduce-scatter sends `4 n (p - 1) / p` and the all-gather behind it `weight_bytes n (p - 1) / p`.
    pub fn of(buckets: &[Bucket], weight_bytes: Option<usize>, ranks: usize) -> Self {
        let values = buckets.iter().map(|bucket| bucket.len).sum();
        let parameters = buckets.iter().map(|bucket| bucket.members.len()).sum::<usize>();
        let flags = sent(2 * parameters, FP32, ranks);
        match weight_bytes {
            None => Self {
                all_reduce: sent(2 * values, FP32, ranks) + flags,
                ..Self::default()
            },
            Some(bytes) => Self {
                all_reduce: flags,
                reduce_scatter: sent(values, FP32, ranks),
                all_gather: sent(values, bytes, ranks),
            },
        }
    }
}

/// Sent by one of `tensor` ranks that hold the same parts of some parameters, to agree on their gradients: `parameters`
/// are those that it updates, each with the number of values. An all-reduce, in which different parts lie side by side.
pub fn tensor_gradient_bytes<'a>(parameters: impl Iterator<Item = (&'a ParamSpec, usize)>, tensor: usize) -> u64 {
    let values = parameters.map(|(spec, numel)| match spec.copies(tensor) {
        1 => 0,
        copies => numel * tensor / copies,
    });
    sent(2 * values.sum::<usize>(), FP32, tensor)
}

fn sent(values: usize, bytes: usize, ranks: usize) -> u64 {
    (values * bytes * (ranks - 1) / ranks) as u64
}
