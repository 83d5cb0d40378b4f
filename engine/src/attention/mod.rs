//! Scaled dot-product attention over segments.

mod blockwise;
mod heads;
mod segments;
mod window;

pub(crate) use blockwise::{Backward, Forward, RowBlock};
pub(crate) use heads::join_heads;
pub use segments::Segments;

use crate::error::Result;
use heads::share_heads;
use std::fmt::Debug;
use tch::Tensor;
use window::{newest, windowed};

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
#[derive(Debug, Clone, Copy)]
pub struct LocalAttention;

impl CausalAttention for LocalAttention {
    fn attend(&self, q_bnsd: &Tensor, k_bnsd: &Tensor, v_bnsd: &Tensor, segments: &Segments) -> Result<Tensor> {
        Ok(attend(q_bnsd, k_bnsd, v_bnsd, Some(segments)))
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

/// Computes causal (`Some(segments)`) or full (`None`) attention. If there are fewer key heads than query heads, groups
/// of query heads share one (GQA, arXiv:2305.13245). Shapes `[b, n, s, d]`; returns `[b, s, n * d]`.
pub fn attend(q_bnsd: &Tensor, k_bnsd: &Tensor, v_bnsd: &Tensor, causal: Option<&Segments>) -> Tensor {
    let groups = q_bnsd.size()[1] / k_bnsd.size()[1];
    let (k, v) = (share_heads(k_bnsd, groups), share_heads(v_bnsd, groups));
    let o_bnsd = match causal {
        None => sdpa(q_bnsd, &k, &v, false),
        // A single query is the newest position and attends to all keys within its window.
        Some(segments) if q_bnsd.size()[2] == 1 => {
            let window = segments.window();
            sdpa(q_bnsd, &newest(&k, window), &newest(&v, window), false)
        }
        Some(segments) if segments.single() => windowed(q_bnsd, &k, &v, segments.window()),
        Some(segments) => segmented(q_bnsd, &k, &v, segments),
    };
    join_heads(&o_bnsd)
}

fn sdpa(q: &Tensor, k: &Tensor, v: &Tensor, causal: bool) -> Tensor {
    Tensor::scaled_dot_product_attention(q, k, v, None::<Tensor>, 0.0, causal, None, false)
}

/// Computes causal attention within each segment; padding gives zeros.
fn segmented(q: &Tensor, k: &Tensor, v: &Tensor, segments: &Segments) -> Tensor {
    let size = q.size();
    let (n, s, d) = (size[1], size[2], size[3]);
    let rows = segments.ranges(s as usize).enumerate().map(|(row, ranges)| {
        let mut outputs = Vec::with_capacity(ranges.len() + 1);
        let mut end = 0;
        // No range is empty: an empty query crashes libtorch's CPU kernel.
        for range in ranges {
            let len = range.len() as i64;
            let slice = |x: &Tensor| x.narrow(0, row as i64, 1).narrow(2, range.start as i64, len);
            outputs.push(windowed(&slice(q), &slice(k), &slice(v), segments.window()));
            end = range.end as i64;
        }
        if end < s {
            outputs.push(Tensor::zeros([1, n, s - end, d], (q.kind(), q.device())));
        }
        Tensor::cat(&outputs, 2)
    });
    let rows: Vec<_> = rows.collect();
    Tensor::cat(&rows, 0)
}
