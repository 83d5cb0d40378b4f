//! Building blocks. Each holds its tensors and reads their local shapes; how a tensor is cut is a
//! property of its layout, chosen in [`Build`] from the table in `neva-layout`.
//!
//! Legend of shape suffixes: `b` batch, `s` sequence, `h` hidden, `n` heads, `d` head width, `f` MLP width,
//! `v` vocabulary, `t` labelled tokens.

mod arrival;
mod attention;
mod blockwise;
mod build;
mod embedding;
mod linear;
mod norm;
mod recompute;
mod rope;
mod segments;
mod stack;

pub use arrival::{Arrival, Wait};
pub(crate) use attention::join_heads;
pub use attention::{CausalAttention, KvCache, LocalAttention, attend};
pub(crate) use blockwise::{Backward, Forward, RowBlock};
pub use build::Build;
pub use embedding::VocabEmbedding;
pub use linear::{ColumnLinears, Linear, Lora};
pub use norm::{LayerNorm, RmsNorm};
pub use recompute::{Block, Recomputed, RecomputedAttention};
pub use rope::Rope;
pub use segments::Segments;
pub use stack::Stack;
