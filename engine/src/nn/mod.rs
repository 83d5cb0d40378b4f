//! Building blocks. Each holds its tensors and reads their local shapes. [`Build`] selects how a tensor is sharded from
//! the table in `neva-layout`.
//!
//! Legend of shape suffixes: `b` batch, `s` sequence, `h` hidden, `n` heads, `d` head width, `f` MLP width,
//! `v` vocabulary, `t` labelled tokens.

mod activation;
mod build;
mod dropout;
mod embedding;
mod images;
mod joint;
mod linear;
mod lora;
mod norm;
mod outputs;
mod recompute;
mod region;
mod rope;
mod stack;
mod weight;

pub use activation::{activate, gated};
pub use build::{AdapterDropout, Build};
pub use dropout::{CurrentKeys, Dropout, Keys};
pub use embedding::VocabEmbedding;
pub use images::ImagePartition;
pub use linear::{ColumnLinears, Linear};
pub use lora::{Lora, Magnitude};
pub(crate) use lora::{row_norms, row_squares};
pub use norm::{LayerNorm, RmsNorm};
pub use outputs::OutputPositions;
pub use recompute::{Block, RecomputedAttention, Submodule};
pub use region::TensorRegion;
pub use rope::{Rope, RopeFrequencies};
pub use stack::Stack;
