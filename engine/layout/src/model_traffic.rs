//! Formulas for the bytes that a rank sends for tensor and pipeline parallelism. The counters of a run must agree.
//!
//! In a ring of `p` ranks, an all-reduce of `n` bytes sends `2 n (p - 1) / p`. An all-gather of shards of `n / p` bytes
//! and a reduce-scatter of `n` bytes send half of that each. A transfer sends `n`.

use crate::schedule::{Action, Pass};
use crate::stages::ChunkSpec;
use serde::Serialize;

/// The hidden states of one microbatch.
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

/// Returns the bytes that one of `tensor` ranks sends for a model chunk in both passes of a microbatch with `labels`
/// labelled positions, if the model itself is trained. Each layer all-reduces its hidden states twice in either
/// direction; the embedding all-reduces its rows, the head its gradient and three numbers per label. The last layer and the
/// head have labelled positions only, except for the gradient of the last layer's input. With sequence parallelism they have
/// all positions; a reduce-scatter and an all-gather send what an all-reduce does; the embedding's gradient is gathered in
/// addition.
pub fn tensor_bytes(tensor: usize, chunk: &ChunkSpec, hidden: Hidden, labels: usize, sequence_parallel: bool) -> u64 {
    let all_reduce = |bytes| all_reduce(tensor, bytes);
    let mut bytes = 4 * chunk.layers.len() as u64 * all_reduce(hidden.size());
    if chunk.first {
        bytes += all_reduce(hidden.size());
        bytes += if sequence_parallel { all_reduce(hidden.size()) / 2 } else { 0 };
    }
    if chunk.last {
        let read = if sequence_parallel {
            hidden
        } else {
            Hidden { b: 1, s: labels, ..hidden }
        };
        if !chunk.layers.is_empty() {
            bytes -= 3 * (all_reduce(hidden.size()) - all_reduce(read.size()));
        }
        bytes += all_reduce(read.size()) + 3 * all_reduce(4 * labels as u64);
    }
    bytes
}

/// Returns the bytes that one of `tensor` ranks sends in addition for recomputed blocks, of which `all` all-reduce the hidden
/// states of all positions, and `read` those of `labels` labelled positions. A layer has two such blocks.
pub fn recompute_bytes(tensor: usize, [all, read]: [usize; 2], hidden: Hidden, labels: usize) -> u64 {
    let labelled = Hidden { b: 1, s: labels, ..hidden };
    all as u64 * all_reduce(tensor, hidden.size()) + read as u64 * all_reduce(tensor, labelled.size())
}

/// Returns the bytes that one of `ranks` ranks sends for an all-reduce of `bytes`.
fn all_reduce(ranks: usize, bytes: u64) -> u64 {
    2 * bytes * (ranks as u64 - 1) / ranks as u64
}

/// The images of a microbatch with a tensor-parallel vision encoder and projector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct TensorParallelImages {
    /// Tensor-parallel size.
    pub tensor: usize,
    /// Number of images.
    pub images: usize,
    /// Layers of the vision encoder that are computed.
    pub layers: usize,
    /// Hidden state of one image: positions (with the class token) x width of the vision encoder.
    pub hidden: usize,
    /// Input of the projector for one image: positions x width of the vision encoder.
    pub selected: usize,
    /// Features of one image: positions x width of the language model.
    pub features: usize,
    /// Pairs of linears of the projector: one column-parallel, one row-parallel.
    pub pairs: usize,
    /// Positions of one image if queries and keys have norms over all heads; 0 without such norms.
    pub normed: usize,
    /// Bytes of a value.
    pub bytes: usize,
}

impl TensorParallelImages {
    /// Returns the bytes sent in the forward pass: each layer all-reduces its hidden states twice, each pair of linears the
    /// features.
    pub fn forward(&self) -> u64 {
        self.all_reduce(2 * self.layers * self.hidden + self.pairs * self.features) + self.norms()
    }

    /// Returns the bytes sent in the backward pass if the vision encoder is trained: each layer all-reduces gradients
    /// twice, each pair of the projector's linears the gradient of its input.
    pub fn backward(&self) -> u64 {
        let first = if self.pairs > 0 { self.selected } else { 0 };
        self.all_reduce(2 * self.layers * self.hidden + first) + self.norms() + self.backward_of_projector()
    }

    /// Returns the bytes sent in the backward pass if the vision encoder is frozen: gradients between the pairs of linears.
    pub fn backward_of_projector(&self) -> u64 {
        self.all_reduce(self.pairs.saturating_sub(1) * self.features)
    }

    /// Returns the bytes of the two norms of each layer, which all-reduce an fp32 number for each position.
    fn norms(&self) -> u64 {
        let sum = all_reduce(self.tensor, (self.images * self.normed * 4) as u64);
        2 * self.layers as u64 * sum
    }

    fn all_reduce(&self, values: usize) -> u64 {
        all_reduce(self.tensor, (self.images * values * self.bytes) as u64)
    }
}

/// Returns the bytes that one pipeline rank sends in a step whose microbatches all have hidden states of this size. With
/// sequence parallelism they are split into `shards`, one per tensor-parallel rank.
pub fn pipeline_bytes(actions: &[Action], chunks: &[ChunkSpec], hidden: Hidden, shards: usize) -> u64 {
    let sends = |action: &&Action| match action.pass {
        Pass::Forward => !chunks[action.chunk].last,
        Pass::Backward => !chunks[action.chunk].first,
    };
    actions.iter().filter(sends).count() as u64 * hidden.size() / shards as u64
}
