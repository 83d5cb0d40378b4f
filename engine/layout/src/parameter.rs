//! One parameter: its name, shape, cut and fresh value.

use serde::Serialize;

/// A parameter of a model, the same in every layout.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ParamSpec {
    /// Full name, Hugging Face's in-memory spelling (transformers 5.x).
    pub name: String,
    /// Shape of the whole tensor.
    pub shape: Vec<usize>,
    /// How tensor parallelism cuts it.
    pub cut: Cut,
    /// Heads that the rows of a column-cut parameter make up, where no head may be cut: of more ranks than heads,
    /// several hold the same one.
    pub heads: Option<usize>,
    /// Which part of the model it belongs to.
    pub part: Part,
    /// Value when nothing is loaded.
    pub init: Init,
    /// False for weights that are kept for export but never take part in the forward pass.
    pub used: bool,
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

/// The slice of a cut parameter that one tensor-parallel rank holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Shard {
    /// Dim that is cut.
    pub dim: usize,
    /// First index of the slice in the whole tensor.
    pub start: usize,
    /// Indices that exist in the whole tensor.
    pub len: usize,
    /// Size of the dim on the rank; `padded - len` are padding.
    pub padded: usize,
}

impl ParamSpec {
    /// Slice that rank `tp_rank` of `tp` holds; `None` where it holds everything.
    pub fn shard(&self, tp_rank: usize, tp: usize) -> Option<Shard> {
        let dim = match self.cut {
            Cut::Replicate => return None,
            _ if tp == 1 => return None,
            Cut::Column | Cut::Vocab => 0,
            Cut::Row => 1,
        };
        let (size, parts) = (self.shape[dim], self.parts(tp));
        let padded = match self.cut {
            Cut::Vocab => size.div_ceil(64 * tp) * 64,
            _ => size / parts,
        };
        let start = (tp_rank * parts / tp * padded).min(size);
        Some(Shard {
            dim,
            start,
            len: padded.min(size - start),
            padded,
        })
    }

    /// Different parts that `tp` ranks hold.
    fn parts(&self, tp: usize) -> usize {
        match (self.cut, self.heads) {
            (Cut::Replicate, _) => 1,
            (_, Some(heads)) => heads.min(tp),
            _ => tp,
        }
    }

    /// Ranks of `tp` that hold the same part: their gradients of it are partial sums where it is cut.
    pub fn copies(&self, tp: usize) -> usize {
        tp / self.parts(tp)
    }

    /// Shape on rank `tp_rank` of `tp`.
    pub fn local_shape(&self, tp_rank: usize, tp: usize) -> Vec<usize> {
        let mut shape = self.shape.clone();
        if let Some(shard) = self.shard(tp_rank, tp) {
            shape[shard.dim] = shard.padded;
        }
        shape
    }

    /// Number of values of the whole tensor.
    pub fn numel(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether weight decay applies: not to biases and not to one-dimensional parameters (NeMo, LLaVA).
    pub fn decays(&self) -> bool {
        self.shape.len() > 1 && !self.name.ends_with(".bias")
    }
}
