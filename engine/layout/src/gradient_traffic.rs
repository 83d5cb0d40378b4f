//! Formulas for the bytes that a rank sends in one step to ranks that hold the same parameters. The counters of a run must
//! agree.

use crate::bucket::Bucket;
use crate::parameter::ParamSpec;
use serde::Serialize;

/// Bytes of a gradient value.
const FP32: usize = 4;

/// Bytes that a rank sends in the DP-CP group, a ring of `p` ranks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct DpCpTraffic {
    /// All-reduce of gradients, and of the flags of touched parameters.
    pub all_reduce: u64,
    /// Reduce-scatter of gradients.
    pub reduce_scatter: u64,
    /// All-gather of weights.
    pub all_gather: u64,
}

impl DpCpTraffic {
    /// Returns the traffic of one step with gradients in `buckets` over `ranks` ranks, each value of `gradient_bytes`.
    /// `weight_bytes` is the size of a weight with a distributed optimizer, `None` without.
    ///
    /// For `n` values in all buckets, padding included, an all-reduce sends `2 gradient_bytes n (p - 1) / p`
    /// bytes. A reduce-scatter sends half of that, and the all-gather after it `weight_bytes n (p - 1) / p`.
    pub fn of(buckets: &[Bucket], gradient_bytes: usize, weight_bytes: Option<usize>, ranks: usize) -> Self {
        let values = buckets.iter().map(|bucket| bucket.len).sum();
        let parameters = buckets.iter().map(|bucket| bucket.members.len()).sum::<usize>();
        let flags = sent(2 * parameters, FP32, ranks);
        match weight_bytes {
            None => Self {
                all_reduce: sent(2 * values, gradient_bytes, ranks) + flags,
                ..Self::default()
            },
            Some(bytes) => Self {
                all_reduce: flags,
                reduce_scatter: sent(values, gradient_bytes, ranks),
                all_gather: sent(values, bytes, ranks),
            },
        }
    }
}

/// Returns the bytes that one of `tensor` ranks sends to all-reduce the gradients of shards that several of them hold.
/// `parameters` are those that it updates, each with its number of values. Different shards lie side by side.
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
