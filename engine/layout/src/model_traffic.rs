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
    let all_reduce = |bytes| all_reduce(tensor, bytes);
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

/// Sent on top by one of `tensor` ranks for `layers` layers that are computed again in the backward pass: each sums its
/// hidden states twice once more.
pub fn recompute_bytes(tensor: usize, layers: usize, hidden: Hidden) -> u64 {
    2 * layers as u64 * all_reduce(tensor, hidden.size())
}

/// Sent by one of `ranks` ranks for a sum of so many bytes.
fn all_reduce(ranks: usize, bytes: u64) -> u64 {
    2 * bytes * (ranks as u64 - 1) / ranks as u64
}

/// The pictures of a micro-batch that the ranks of a tensor group encode together, where the vision encoder and the
/// projector are cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct CutPictures {
    /// Ranks of the tensor axis.
    pub tensor: usize,
    /// Pictures.
    pub pictures: usize,
    /// Layers of the vision encoder that are computed.
    pub layers: usize,
    /// Hidden state of one picture: positions (with the class token) x width of the vision encoder.
    pub hidden: usize,
    /// What the projector takes of it: positions x width of the vision encoder.
    pub selected: usize,
    /// Features of one picture: positions x width of the language model.
    pub features: usize,
    /// Bytes of a value.
    pub bytes: usize,
}

impl CutPictures {
    /// Sent in the forward pass: each layer sums its hidden states twice, the projector sums the features.
    pub fn forward(&self) -> u64 {
        self.all_reduce(2 * self.layers * self.hidden + self.features)
    }

    /// Sent in the backward pass, where the vision encoder itself is trained: each layer sums gradients twice, the
    /// projector those of its input. Nothing is sent where the vision encoder is frozen.
    pub fn backward(&self) -> u64 {
        self.all_reduce(2 * self.layers * self.hidden + self.selected)
    }

    fn all_reduce(&self, values: usize) -> u64 {
        all_reduce(self.tensor, (self.pictures * values * self.bytes) as u64)
    }
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
