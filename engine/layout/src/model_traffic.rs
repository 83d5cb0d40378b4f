//! Bytes that a rank sends because it shares matrices and layers with others, by formula; what is counted while a run
//! goes on must agree.
//!
//! Of `n` bytes in a group of `p` ranks that are a ring, an all-reduce sends `2 n (p - 1) / p`, an all-gather of parts of
//! `n / p` bytes and a reduce-scatter of `n` bytes send half of that each, a transfer sends `n`.

use crate::schedule::{Action, Pass};
use crate::stages::Section;
use serde::Serialize;

/// The hidden states of one micro-batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Hidden {
    /// Rows.
    pub b: usize,
    /// Positions of each row that the ranks of a tensor group hold together.
    pub s: usize,
    /// Width.
    pub h: usize,
    /// Bytes of a value.
    pub bytes: usize,
}

impl Hidden {
    fn size(&self) -> u64 {
        (self.b * self.s * self.h * self.bytes) as u64
    }
}

/// Sent by one of `tensor` ranks through a section in both passes of a micro-batch of `labels` labelled positions, when
/// the model itself is trained: each layer sums its hidden states twice in either direction; the embedding sums its
/// rows, the head its gradient and three numbers for each label. With sequence parallelism a sum is a reduce-scatter and
/// an all-gather, which send as much; the embedding's gradient is gathered on top.
pub fn tensor_bytes(tensor: usize, section: &Section, hidden: Hidden, labels: usize, sequence_parallel: bool) -> u64 {
    let (others, tensor) = (tensor as u64 - 1, tensor as u64);
    let all_reduce = |bytes: u64| 2 * bytes * others / tensor;
    let mut bytes = 4 * section.layers.len() as u64 * all_reduce(hidden.size());
    if section.first {
        bytes += all_reduce(hidden.size());
        bytes += if sequence_parallel { all_reduce(hidden.size()) / 2 } else { 0 };
    }
    if section.last {
        bytes += all_reduce(hidden.size()) + 3 * all_reduce(4 * labels as u64);
    }
    bytes
}

/// Sent by one pipeline rank in a step whose micro-batches all have hidden states of this size, of which each of its
/// tensor-parallel ranks holds a part with sequence parallelism (`parts`).
pub fn pipeline_bytes(actions: &[Action], chunks: &[Section], hidden: Hidden, parts: usize) -> u64 {
    let sends = |action: &&Action| match action.pass {
        Pass::Forward => !chunks[action.chunk].last,
        Pass::Backward => !chunks[action.chunk].first,
    };
    actions.iter().filter(sends).count() as u64 * hidden.size() / parts as u64
}
