//! Blockwise attention. Blocks are combined by the log-sum-exp of each query's scores; the result is exact for any blocks
//! in any order (FlashAttention-2, arXiv:2307.08691, sections 2.3 and 3.1).
//!
//! Sums over blocks are in fp32. A query without keys has log-sum-exp -inf, output 0 and gradient 0.

use super::heads::share_heads;
use super::window::Band;
use neva_layout::{Block, Mask};
use std::ops::Range;
use tch::{Device, Kind, TchError, Tensor};

/// A block of some rows of a batch.
#[derive(Debug, Clone)]
pub(crate) struct RowBlock {
    /// The rows.
    pub(crate) rows: Range<usize>,
    /// Their queries and keys.
    pub(crate) block: Block,
}

/// Forward pass: output over the blocks added so far.
#[derive(Debug)]
pub(crate) struct Forward {
    q_bnsd: Tensor,
    o_bnsd: Tensor,
    lse_bns: Tensor,
}

impl Forward {
    /// Starts without any keys.
    pub(crate) fn new(q_bnsd: &Tensor) -> Self {
        let size = q_bnsd.size();
        let (options, [b, n, s, d]) = ((Kind::Float, q_bnsd.device()), [0, 1, 2, 3].map(|dim: usize| size[dim]));
        Self {
            q_bnsd: q_bnsd.shallow_clone(),
            // With this memory layout, heads are joined without a copy.
            o_bnsd: Tensor::zeros([b, s, n, d], options).transpose(1, 2),
            lse_bns: Tensor::full([b, n, s], f64::NEG_INFINITY, options),
        }
    }

    /// Adds attention to the keys and values `kv_2bnsd` within `blocks`.
    pub(crate) fn add(&mut self, kv_2bnsd: &Tensor, blocks: &[RowBlock]) -> Result<(), TchError> {
        for RowBlock { rows, block } in blocks {
            let queries = |x: &Tensor| slice(x, rows, &block.queries);
            let q = queries(&self.q_bnsd)?;
            let (k, v) = keys_values(kv_2bnsd, rows, block, q.size()[1])?;
            let (o, lse) = scores(&q, &k, &v, block.mask)?;
            let (mut o_sum, mut lse_sum) = (queries(&self.o_bnsd)?, queries(&self.lse_bns)?);
            // Finite: each query of a block has a key. exp(-inf) is 0.
            let lse_both = lse_sum.f_logaddexp(&lse)?;
            let _ = o_sum.f_mul_(&lse_sum.f_sub(&lse_both)?.f_exp()?.f_unsqueeze(-1)?)?;
            let _ = o_sum.f_add_(&o.f_mul(&lse.f_sub(&lse_both)?.f_exp()?.f_unsqueeze(-1)?)?)?;
            lse_sum.f_copy_(&lse_both)?;
        }
        Ok(())
    }

    /// Returns the output in the queries' kind, and the log-sum-exp `[b, n, s]` of each query.
    pub(crate) fn finish(self) -> Result<(Tensor, Tensor), TchError> {
        Ok((self.o_bnsd.f_to_kind(self.q_bnsd.kind())?, self.lse_bns))
    }
}

/// Backward pass: gradients of queries, keys and values, block by block.
#[derive(Debug)]
pub(crate) struct Backward {
    /// Queries, output and gradient of the output.
    pub(crate) q_bnsd: Tensor,
    pub(crate) o_bnsd: Tensor,
    pub(crate) do_bnsd: Tensor,
    /// Log-sum-exp over all keys.
    pub(crate) lse_bns: Tensor,
    /// Gradient of the queries over the blocks added so far, in fp32.
    pub(crate) dq_bnsd: Tensor,
}

impl Backward {
    /// Adds the gradient of `kv_2bnsd` within `blocks` to `dkv_2bnsd` (fp32).
    pub(crate) fn add(&mut self, kv_2bnsd: &Tensor, dkv_2bnsd: &Tensor, blocks: &[RowBlock]) -> Result<(), TchError> {
        for RowBlock { rows, block } in blocks {
            let queries = |x: &Tensor| slice(x, rows, &block.queries);
            let block_backward = BlockBackward {
                q: queries(&self.q_bnsd)?,
                o: queries(&self.o_bnsd)?,
                lse: queries(&self.lse_bns)?,
                mask: block.mask,
            };
            let (k, v) = keys_values(kv_2bnsd, rows, block, block_backward.q.size()[1])?;
            let (dq, dk, dv) = block_backward.gradients(&k, &v, &queries(&self.do_bnsd)?)?;
            let _ = queries(&self.dq_bnsd)?.f_add_(&dq)?;
            for (index, grad) in [dk, dv].into_iter().enumerate() {
                let mut sum = slice(&dkv_2bnsd.f_select(0, index as i64)?, rows, &block.keys)?;
                let groups = grad.size()[1] / sum.size()[1];
                let grad = grad.f_unflatten(1, [-1, groups])?;
                let _ = sum.f_add_(&grad.f_sum_dim_intlist([2].as_slice(), false, Kind::Float)?)?;
            }
        }
        Ok(())
    }
}

/// Returns rows and positions of `[b, n, s, ..]`.
fn slice(x: &Tensor, rows: &Range<usize>, positions: &Range<usize>) -> Result<Tensor, TchError> {
    x.f_narrow(0, rows.start as i64, rows.len() as i64)?
        .f_narrow(2, positions.start as i64, positions.len() as i64)
}

/// Returns keys and values of a block, for `heads` query heads.
fn keys_values(kv_2bnsd: &Tensor, rows: &Range<usize>, block: &Block, heads: i64) -> Result<(Tensor, Tensor), TchError> {
    let groups = heads / kv_2bnsd.size()[2];
    let of = |index| slice(&kv_2bnsd.f_select(0, index)?, rows, &block.keys);
    Ok((share_heads(&of(0)?, groups), share_heads(&of(1)?, groups)))
}

/// Computes output in fp32 and log-sum-exp of one block.
fn scores(q: &Tensor, k: &Tensor, v: &Tensor, mask: Mask) -> Result<(Tensor, Tensor), TchError> {
    if q.device() == Device::Cpu {
        let (causal, mask) = (mask == Mask::Causal, additive_mask(q, k, mask)?);
        let (o, lse) = Tensor::f_internal_scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, causal, mask.as_ref(), None)?;
        return Ok((o.f_to_kind(Kind::Float)?, lse));
    }
    let scores = masked_scores(q, k, mask)?;
    let lse = scores.f_logsumexp([-1].as_slice(), false)?;
    let probabilities = scores.f_sub(&lse.f_unsqueeze(-1)?)?.f_exp()?;
    Ok((probabilities.f_matmul(&v.f_to_kind(Kind::Float)?)?, lse))
}

fn scale(q: &Tensor) -> f64 {
    (q.size()[3] as f64).sqrt().recip()
}

/// Returns the mask of a window, to add to the scores. The CPU kernel makes the causal mask itself.
fn additive_mask(q: &Tensor, k: &Tensor, mask: Mask) -> Result<Option<Tensor>, TchError> {
    let Mask::Window { .. } = mask else { return Ok(None) };
    let hidden = hidden(q.size()[2], k.size()[2], mask, q.device())?;
    let zeros = Tensor::f_zeros([q.size()[2], k.size()[2]], (q.kind(), q.device()))?;
    hidden.map(|hidden| zeros.f_masked_fill(&hidden, f64::NEG_INFINITY)).transpose()
}

/// Returns `[queries, keys]`, true for keys that a query does not attend to; `None` without such keys.
fn hidden(queries: i64, keys: i64, mask: Mask, device: Device) -> Result<Option<Tensor>, TchError> {
    Ok(match mask {
        Mask::All => None,
        Mask::Causal => Some(Tensor::f_ones([queries, keys], (Kind::Bool, device))?.f_triu(1)?),
        Mask::Window { lead, window } => {
            let window = window as i64;
            Some(Band { lead, window }.mask(queries, keys, device).f_logical_not()?)
        }
    })
}

/// Computes scores `[b, n, queries, keys]` in fp32; masked ones are -inf.
fn masked_scores(q: &Tensor, k: &Tensor, mask: Mask) -> Result<Tensor, TchError> {
    let keys = k.f_to_kind(Kind::Float)?.f_transpose(2, 3)?;
    let scores = q.f_to_kind(Kind::Float)?.f_mul_scalar(scale(q))?.f_matmul(&keys)?;
    match hidden(q.size()[2], k.size()[2], mask, q.device())? {
        Some(hidden) => scores.f_masked_fill(&hidden, f64::NEG_INFINITY),
        None => Ok(scores),
    }
}

/// Queries of one block, with output and log-sum-exp over all keys.
struct BlockBackward {
    q: Tensor,
    o: Tensor,
    lse: Tensor,
    mask: Mask,
}

impl BlockBackward {
    /// Computes gradients of queries, keys and values of the block. Probabilities are recomputed from the scores and
    /// the log-sum-exp.
    fn gradients(&self, k: &Tensor, v: &Tensor, grad: &Tensor) -> Result<(Tensor, Tensor, Tensor), TchError> {
        let Self { q, o, lse, mask } = self;
        if q.device() == Device::Cpu {
            return Tensor::f_internal_scaled_dot_product_flash_attention_for_cpu_backward(
                grad,
                q,
                k,
                v,
                o,
                lse,
                0.0,
                *mask == Mask::Causal,
                additive_mask(q, k, *mask)?,
                None,
            );
        }
        let float = |x: &Tensor| x.f_to_kind(Kind::Float);
        let (grad, o, v) = (float(grad)?, float(o)?, float(v)?);
        let probabilities = masked_scores(q, k, *mask)?.f_sub(&lse.f_unsqueeze(-1)?)?.f_exp()?;
        let dv = probabilities.f_transpose(2, 3)?.f_matmul(&grad)?;
        let mean = grad.f_mul(&o)?.f_sum_dim_intlist([-1].as_slice(), true, Kind::Float)?;
        let change = grad.f_matmul(&v.f_transpose(2, 3)?)?.f_sub(&mean)?;
        let dscores = probabilities.f_mul(&change)?.f_mul_scalar(scale(q))?;
        let dq = dscores.f_matmul(&float(k)?)?;
        let dk = dscores.f_transpose(2, 3)?.f_matmul(&float(q)?)?;
        Ok((dq, dk, dv))
    }
}
