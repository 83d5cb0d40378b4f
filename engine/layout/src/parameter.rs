//! Description of one parameter: a row of a model's table.

use neva_schemas::{MegatronStrategy, VisionPlacement};
use serde::Serialize;

/// A parameter of a model, the same in every layout. No field has a default: a family sets each of them.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ParamSpec {
    /// Full name, Hugging Face's in-memory spelling (transformers 5.x).
    pub name: String,
    /// Shape of the whole tensor.
    pub shape: Vec<usize>,
    /// Value when nothing is loaded.
    pub init: Init,
    /// How tensor parallelism cuts it.
    pub cut: Cut,
    /// Number of heads in the rows of a column-parallel parameter, if no head may be cut: with more ranks than heads,
    /// several ranks hold the same one.
    pub heads: Option<usize>,
    /// Pipeline stages that hold it.
    pub stage: Stage,
    /// Part of the model that it belongs to.
    pub part: Part,
    /// Part of the model whose linear it adapts; `None` for the model's own parameters.
    pub adapts: Option<Part>,
    /// Names of the linear whose weight it is, for LoRA; `None` if it gets no adapter.
    pub lora: Option<LoraModule>,
    /// Where the gradient of each tensor-parallel rank is a partial sum.
    pub partial_sum: PartialSum,
    /// False for weights that are stored for export but not used in the forward pass.
    pub used: bool,
}

/// Pipeline stages that hold a parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Stage {
    /// The first one: embedding, vision tower, projector.
    First,
    /// The first and the last one: a tied embedding.
    FirstAndLast,
    /// The one with this decoder layer.
    Layer(usize),
    /// The last one: final norm, head.
    Last,
}

/// Condition under which the gradient of a replicated parameter is a partial sum over the tensor-parallel ranks, because
/// each rank has different inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum PartialSum {
    /// Never: every rank has the same inputs, or holds its own shard.
    Never,
    /// With sequence parallelism: each rank has its shard of every sequence.
    SequenceParallel,
    /// With images that are split among the ranks: each rank has its own images.
    SharedImages,
}

impl PartialSum {
    /// Returns `self` for a replicated parameter and `Never` for a cut one, whose shards have whole gradients.
    pub fn if_replicated(self, cut: Cut) -> Self {
        if cut == Cut::Replicate { self } else { Self::Never }
    }
}

/// Names of a linear for LoRA.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LoraModule {
    /// The linear's own full name.
    pub linear: String,
    /// Full name of the Megatron module that contains it; `None` if Megatron has none.
    pub megatron: Option<String>,
    /// Its own full name in NeMo's canonical adapters (`linear_q`); `None` if Megatron has none.
    pub canonical: Option<String>,
    /// Name under which the A of that module is saved: the linear's own, or that of a fused module.
    pub saved_as: String,
    /// Partial sums of the replicated one of A and B.
    pub partial_sum: PartialSum,
}

/// How tensor parallelism cuts a parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Cut {
    /// Every rank holds all of it.
    Replicate,
    /// Rows (dim 0) of equal number on each rank.
    Column,
    /// Columns (dim 1) of equal number on each rank.
    Row,
    /// Rows of an embedding, padded so that every rank holds the same multiple of 64.
    Vocab,
}

/// Part of a model, the unit of freezing and of the trainable-parameter table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Part {
    /// Language model, its embedding and its head.
    Language,
    /// Projector from vision features to the language model's width.
    Projection,
    /// Vision encoder.
    Vision,
    /// Low-rank adapters.
    Adapter,
}

/// Value of a fresh parameter.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub enum Init {
    /// All 0.
    Zeros,
    /// All 1.
    Ones,
    /// Lengths of the rows of the linear's weight with its adapter (DoRA's magnitudes).
    RowNorms,
    /// The same value everywhere.
    Constant {
        /// The value.
        value: f64,
    },
    /// Normal with mean 0.
    Normal {
        /// Standard deviation.
        std: f64,
    },
    /// Uniform in `(-bound, bound)`.
    Uniform {
        /// Half of the width.
        bound: f64,
    },
}

/// The shard of a parameter that one tensor-parallel rank holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Shard {
    /// Dim that is cut.
    pub dim: usize,
    /// First index of the shard in the whole tensor.
    pub start: usize,
    /// Number of indices that exist in the whole tensor.
    pub len: usize,
    /// Size of the dim on the rank; `padded - len` are padding.
    pub padded: usize,
}

impl ParamSpec {
    /// Returns the shard of rank `tp_rank` of `tp`; `None` if it holds the whole tensor.
    pub fn shard(&self, tp_rank: usize, tp: usize) -> Option<Shard> {
        let dim = match self.cut {
            Cut::Replicate => return None,
            _ if tp == 1 => return None,
            Cut::Column | Cut::Vocab => 0,
            Cut::Row => 1,
        };
        let (size, shards) = (self.shape[dim], self.shards(tp));
        let padded = match self.cut {
            Cut::Vocab => size.div_ceil(64 * tp) * 64,
            _ => size / shards,
        };
        let start = (tp_rank * shards / tp * padded).min(size);
        Some(Shard {
            dim,
            start,
            len: padded.min(size - start),
            padded,
        })
    }

    /// Returns the number of different shards that `tp` ranks hold.
    fn shards(&self, tp: usize) -> usize {
        match (self.cut, self.heads) {
            (Cut::Replicate, _) => 1,
            (_, Some(heads)) => heads.min(tp),
            _ => tp,
        }
    }

    /// Returns the number of ranks of `tp` that hold the same shard: if the parameter is cut, their gradients are
    /// partial sums.
    pub fn copies(&self, tp: usize) -> usize {
        tp / self.shards(tp)
    }

    /// Returns the shape on rank `tp_rank` of `tp`.
    pub fn local_shape(&self, tp_rank: usize, tp: usize) -> Vec<usize> {
        let mut shape = self.shape.clone();
        if let Some(shard) = self.shard(tp_rank, tp) {
            shape[shard.dim] = shard.padded;
        }
        shape
    }

    /// Returns the number of values of the whole tensor.
    pub fn numel(&self) -> usize {
        self.shape.iter().product()
    }

    /// Returns whether weight decay applies: not to biases and other one-dimensional parameters (NeMo, LLaVA).
    pub fn decays(&self) -> bool {
        self.shape.len() > 1
    }

    /// Returns the part of the model that uses it: for an adapter, that of its linear.
    pub fn owner(&self) -> Part {
        self.adapts.unwrap_or(self.part)
    }

    /// Returns whether a rank's gradient is a partial sum over the tensor-parallel ranks.
    pub fn is_partial_sum(&self, strategy: &MegatronStrategy) -> bool {
        match self.partial_sum {
            PartialSum::Never => false,
            PartialSum::SequenceParallel => strategy.sequence_parallel,
            PartialSum::SharedImages => strategy.vision_placement == VisionPlacement::Shared,
        }
    }
}
