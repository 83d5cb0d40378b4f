//! Scaled dot-product attention over segments.

use super::segments::Segments;
use crate::error::Result;
use std::fmt::Debug;
use tch::Tensor;

/// How the queries of a causal model find their keys. The model is built with one of these, and does not know whether
/// all keys of a row are on its rank.
pub trait CausalAttention: Debug + Send + Sync {
    /// Causal attention within segments. Shapes `[b, n, s, d]`, `s` being the places that the rank holds; fewer key
    /// heads than query heads are shared by groups of query heads. Returns `[b, s, n * d]`.
    ///
    /// # Errors
    /// A transfer between ranks failed (in the backward pass: out of the call that started it).
    fn attend(&self, q_bnsd: &Tensor, k_bnsd: &Tensor, v_bnsd: &Tensor, segments: &Segments) -> Result<Tensor>;
}

/// All keys of a row are here.
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
    /// Positions that are held.
    pub fn len(&self) -> i64 {
        self.keys_values.as_ref().map_or(0, |(k_bnsd, _)| k_bnsd.size()[2])
    }

    /// Whether nothing is held.
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

/// Causal (`Some(segments)`) or full (`None`) attention. Fewer key heads than query heads are shared by
/// groups of query heads (GQA, arXiv:2305.13245). Shapes `[b, n, s, d]`; returns `[b, s, n * d]`.
pub fn attend(q_bnsd: &Tensor, k_bnsd: &Tensor, v_bnsd: &Tensor, causal: Option<&Segments>) -> Tensor {
    let groups = q_bnsd.size()[1] / k_bnsd.size()[1];
    let (k, v) = (share_heads(k_bnsd, groups), share_heads(v_bnsd, groups));
    let o_bnsd = match causal {
        None => sdpa(q_bnsd, &k, &v, false),
        // A single query is the newest position and sees everything before it.
        Some(_) if q_bnsd.size()[2] == 1 => sdpa(q_bnsd, &k, &v, false),
        Some(segments) if segments.single() => sdpa(q_bnsd, &k, &v, true),
        Some(segments) => segmented(q_bnsd, &k, &v, segments),
    };
    join_heads(&o_bnsd)
}

/// From `[b, n, s, d]` to `[b, s, n * d]`.
pub(crate) fn join_heads(x_bnsd: &Tensor) -> Tensor {
    x_bnsd.transpose(1, 2).flatten(2, 3)
}

fn sdpa(q: &Tensor, k: &Tensor, v: &Tensor, causal: bool) -> Tensor {
    Tensor::scaled_dot_product_attention(q, k, v, None::<Tensor>, 0.0, causal, None, false)
}

/// Each head as often as groups of query heads share it.
pub(super) fn share_heads(x_bnsd: &Tensor, groups: i64) -> Tensor {
    if groups == 1 {
        x_bnsd.shallow_clone()
    } else {
        x_bnsd.repeat_interleave_self_int(groups, 1, None)
    }
}

/// Each segment attends within itself; padding gives zeros.
fn segmented(q: &Tensor, k: &Tensor, v: &Tensor, segments: &Segments) -> Tensor {
    let size = q.size();
    let (n, s, d) = (size[1], size[2], size[3]);
    let rows = segments.ranges(s as usize).enumerate().map(|(row, ranges)| {
        let mut parts = Vec::with_capacity(ranges.len() + 1);
        let mut end = 0;
        // An empty query kills libtorch's CPU kernel: no range is empty.
        for range in ranges {
            let len = range.len() as i64;
            let part = |x: &Tensor| x.narrow(0, row as i64, 1).narrow(2, range.start as i64, len);
            parts.push(sdpa(&part(q), &part(k), &part(v), true));
            end = range.end as i64;
        }
        if end < s {
            parts.push(Tensor::zeros([1, n, s - end, d], (q.kind(), q.device())));
        }
        Tensor::cat(&parts, 2)
    });
    let rows: Vec<_> = rows.collect();
    Tensor::cat(&rows, 0)
}
