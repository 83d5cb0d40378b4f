//! Causal attention in a sliding window (Mistral 7B, arXiv:2310.06825): a query attends to itself and the `window - 1`
//! positions before it.
//!
//! Queries are processed in blocks, each with the keys in its reach: compute and memory grow with `s * window`.

use tch::{Device, Kind, Tensor};

/// Minimum number of queries in a block: the calls of smaller blocks cost more than they save.
const MIN_BLOCK: usize = 128;

/// Sliding-window mask of a contiguous block of queries over a contiguous block of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Band {
    /// Position of the first query minus that of the first key.
    pub(crate) lead: i64,
    /// Number of positions that a query attends to, itself included.
    pub(crate) window: i64,
}

impl Band {
    /// Returns `[queries, keys]`, true where a query attends to a key.
    pub(crate) fn mask(self, queries: i64, keys: i64, device: Device) -> Tensor {
        let all = Tensor::ones([queries, keys], (Kind::Bool, device));
        all.tril(self.lead).triu(self.lead - self.window + 1)
    }
}

/// Computes causal attention of all queries to all keys of one segment, within a window. Shapes `[b, n, s, d]`.
/// `sdpa` computes attention with a mask, or else a causal one.
pub(super) fn windowed(
    [q, k, v]: [&Tensor; 3],
    window: Option<usize>,
    sdpa: impl Fn([&Tensor; 3], Option<&Tensor>, bool) -> Tensor,
) -> Tensor {
    let s = q.size()[2];
    let Some(window) = window.map(|window| window as i64).filter(|window| *window < s) else {
        return sdpa([q, k, v], None, true);
    };
    let block = window.max(MIN_BLOCK as i64);
    let mut inner = None;
    let blocks = (0..s).step_by(block as usize).map(|start| {
        let queries = block.min(s - start);
        let first = (start - window + 1).max(0);
        let (lead, keys) = (start - first, start - first + queries);
        let band = Band { lead, window };
        // All blocks but the first and the last have the same mask.
        let mask = match &inner {
            Some((known, mask)) if *known == (lead, queries) => Tensor::shallow_clone(mask),
            _ => band.mask(queries, keys, q.device()),
        };
        inner = Some(((lead, queries), mask.shallow_clone()));
        let slice = |x: &Tensor| x.narrow(2, first, keys);
        sdpa([&q.narrow(2, start, queries), &slice(k), &slice(v)], Some(&mask), false)
    });
    Tensor::cat(&blocks.collect::<Vec<_>>(), 2)
}

/// Returns the newest keys or values within the window of the next query.
pub(super) fn newest(x_bnsd: &Tensor, window: Option<usize>) -> Tensor {
    let s = x_bnsd.size()[2];
    let len = window.map_or(s, |window| s.min(window as i64));
    x_bnsd.narrow(2, s - len, len)
}
