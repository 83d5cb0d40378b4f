//! Scaled dot-product attention over segments.

mod blockwise;
mod core;
mod heads;
mod segments;
mod window;

pub use self::core::AttentionCore;
pub(crate) use self::core::refuse_backend;
pub(crate) use blockwise::{Backward, Forward, RowBlock};
pub(crate) use heads::join_heads;
pub use segments::Segments;

use crate::error::Result;
use std::fmt::Debug;
use tch::Tensor;

/// The attention implementation of a causal model. The model does not depend on whether all keys of a row are on its
/// rank.
pub trait CausalAttention: Debug + Send + Sync {
    /// Computes causal attention within segments. Shapes `[b, n, s, d]`, with `s` local positions. If there are fewer key
    /// heads than query heads, groups of query heads share one. Returns `[b, s, n * d]`.
    ///
    /// # Errors
    /// A transfer between ranks failed. In the backward pass, the call that started it returns the error.
    fn attend(&self, q_bnsd: &Tensor, k_bnsd: &Tensor, v_bnsd: &Tensor, segments: &Segments) -> Result<Tensor>;
}

/// Attention with all keys of a row on this rank.
#[derive(Debug, Clone, Default)]
pub struct LocalAttention(pub AttentionCore);

impl CausalAttention for LocalAttention {
    fn attend(&self, q_bnsd: &Tensor, k_bnsd: &Tensor, v_bnsd: &Tensor, segments: &Segments) -> Result<Tensor> {
        self.0.attend(q_bnsd, k_bnsd, v_bnsd, Some(segments))
    }
}

/// Keys and values of earlier positions, for generation.
#[derive(Debug, Default)]
pub struct KvCache {
    keys_values: Option<(Tensor, Tensor)>,
}

impl KvCache {
    /// Returns the number of cached positions.
    pub fn len(&self) -> i64 {
        self.keys_values.as_ref().map_or(0, |(k_bnsd, _)| k_bnsd.size()[2])
    }

    /// Returns whether the cache is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends and returns all keys and values.
    pub fn extend(&mut self, k_bnsd: Tensor, v_bnsd: Tensor) -> (Tensor, Tensor) {
        let (k, v) = match self.keys_values.take() {
            Some((k, v)) => (Tensor::cat(&[k, k_bnsd], 2), Tensor::cat(&[v, v_bnsd], 2)),
            None => (k_bnsd, v_bnsd),
        };
        self.keys_values = Some((k.shallow_clone(), v.shallow_clone()));
        (k, v)
    }
}

/// Computes attention as [`AttentionCore::attend`] does, with the default choice of kernels.
///
/// # Errors
/// There is no memory.
pub fn attend(q_bnsd: &Tensor, k_bnsd: &Tensor, v_bnsd: &Tensor, causal: Option<&Segments>) -> Result<Tensor> {
    AttentionCore::default().attend(q_bnsd, k_bnsd, v_bnsd, causal)
}
