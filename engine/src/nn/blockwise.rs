//! Attention of blocks of queries to blocks of keys, put together by the log-sum-exp of each query's scores: exact,
//! whatever the blocks and their order (FlashAttention-2, arXiv:2307.08691, sections 2.3 and 3.1).
//!
//! Sums over blocks are in fp32. A query that meets no key has log-sum-exp -inf, output 0 and gradient 0.

use super::attention::share_heads;
use neva_layout::Block;
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

/// The output of what has been seen so far.
#[derive(Debug)]
pub(crate) struct Forward {
    q_bnsd: Tensor,
    o_bnsd: Tensor,
    lse_bns: Tensor,
}

impl Forward {
    /// Nothing has been seen.
    pub(crate) fn new(q_bnsd: &Tensor) -> Self {
        let size = q_bnsd.size();
        let (options, [b, n, s, d]) = ((Kind::Float, q_bnsd.device()), [0, 1, 2, 3].map(|dim: usize| size[dim]));
        Self {
            q_bnsd: q_bnsd.shallow_clone(),
            // In this order heads are joined without a copy.
            o_bnsd: Tensor::zeros([b, s, n, d], options).transpose(1, 2),
            lse_bns: Tensor::full([b, n, s], f64::NEG_INFINITY, options),
        }
    }

    /// Lets the queries see `kv_2bnsd`, keys and values, where `blocks` say so.
    pub(crate) fn add(&mut self, kv_2bnsd: &Tensor, blocks: &[RowBlock]) -> Result<(), TchError> {
        for RowBlock { rows, block } in blocks {
            let queries = |x: &Tensor| part(x, rows, &block.queries);
            let q = queries(&self.q_bnsd)?;
            let (k, v) = keys_values(kv_2bnsd, rows, block, q.size()[1])?;
            let (o, lse) = scores(&q, &k, &v, block.causal)?;
            let (mut o_sum, mut lse_sum) = (queries(&self.o_bnsd)?, queries(&self.lse_bns)?);
            // Finite: each query of a block meets a key. Of -inf, exp makes 0.
            let lse_both = lse_sum.f_logaddexp(&lse)?;
            let _ = o_sum.f_mul_(&lse_sum.f_sub(&lse_both)?.f_exp()?.f_unsqueeze(-1)?)?;
            let _ = o_sum.f_add_(&o.f_mul(&lse.f_sub(&lse_both)?.f_exp()?.f_unsqueeze(-1)?)?)?;
            lse_sum.f_copy_(&lse_both)?;
        }
        Ok(())
    }

    /// Output in the queries' kind, and log-sum-exp `[b, n, s]` of each query.
    pub(crate) fn finish(self) -> Result<(Tensor, Tensor), TchError> {
        Ok((self.o_bnsd.f_to_kind(self.q_bnsd.kind())?, self.lse_bns))
    }
}

/// From the gradient of the whole output to that of queries, keys and values, block by block.
#[derive(Debug)]
pub(crate) struct Backward {
    /// Queries, output and its gradient.
    pub(crate) q_bnsd: Tensor,
    pub(crate) o_bnsd: Tensor,
    pub(crate) do_bnsd: Tensor,
    /// Of all keys that a query has seen.
    pub(crate) lse_bns: Tensor,
    /// Gradient of the queries so far, in fp32.
    pub(crate) dq_bnsd: Tensor,
}

impl Backward {
    /// Adds to `dkv_2bnsd` (fp32) the gradient of `kv_2bnsd`, where `blocks` let the queries see it.
    pub(crate) fn add(&mut self, kv_2bnsd: &Tensor, dkv_2bnsd: &Tensor, blocks: &[RowBlock]) -> Result<(), TchError> {
        for RowBlock { rows, block } in blocks {
            let queries = |x: &Tensor| part(x, rows, &block.queries);
            let seen = Seen {
                q: queries(&self.q_bnsd)?,
                o: queries(&self.o_bnsd)?,
                lse: queries(&self.lse_bns)?,
                causal: block.causal,
            };
            let (k, v) = keys_values(kv_2bnsd, rows, block, seen.q.size()[1])?;
            let (dq, dk, dv) = seen.gradients(&k, &v, &queries(&self.do_bnsd)?)?;
            let _ = queries(&self.dq_bnsd)?.f_add_(&dq)?;
            for (index, grad) in [dk, dv].into_iter().enumerate() {
                let mut sum = part(&dkv_2bnsd.f_select(0, index as i64)?, rows, &block.keys)?;
                let groups = grad.size()[1] / sum.size()[1];
                let grad = grad.f_unflatten(1, [-1, groups])?;
                let _ = sum.f_add_(&grad.f_sum_dim_intlist([2].as_slice(), false, Kind::Float)?)?;
            }
        }
        Ok(())
    }
}

/// Rows and places of `[b, n, s, ..]`.
fn part(x: &Tensor, rows: &Range<usize>, places: &Range<usize>) -> Result<Tensor, TchError> {
    x.f_narrow(0, rows.start as i64, rows.len() as i64)?
        .f_narrow(2, places.start as i64, places.len() as i64)
}

/// Keys and values of a block, for `heads` heads of queries.
fn keys_values(kv_2bnsd: &Tensor, rows: &Range<usize>, block: &Block, heads: i64) -> Result<(Tensor, Tensor), TchError> {
    let groups = heads / kv_2bnsd.size()[2];
    let of = |index| part(&kv_2bnsd.f_select(0, index)?, rows, &block.keys);
    Ok((share_heads(&of(0)?, groups), share_heads(&of(1)?, groups)))
}

/// Output in fp32 and log-sum-exp of one block.
fn scores(q: &Tensor, k: &Tensor, v: &Tensor, causal: bool) -> Result<(Tensor, Tensor), TchError> {
    if q.device() == Device::Cpu {
        let (o, lse) = Tensor::f_internal_scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, causal, None::<Tensor>, None)?;
        return Ok((o.f_to_kind(Kind::Float)?, lse));
    }
    let scores = masked_scores(q, k, causal)?;
    let lse = scores.f_logsumexp([-1].as_slice(), false)?;
    let probabilities = scores.f_sub(&lse.f_unsqueeze(-1)?)?.f_exp()?;
    Ok((probabilities.f_matmul(&v.f_to_kind(Kind::Float)?)?, lse))
}

fn scale(q: &Tensor) -> f64 {
    (q.size()[3] as f64).sqrt().recip()
}

/// `[b, n, queries, keys]` in fp32, -inf where a query does not see a key.
fn masked_scores(q: &Tensor, k: &Tensor, causal: bool) -> Result<Tensor, TchError> {
    let keys = k.f_to_kind(Kind::Float)?.f_transpose(2, 3)?;
    let scores = q.f_to_kind(Kind::Float)?.f_mul_scalar(scale(q))?.f_matmul(&keys)?;
    if !causal {
        return Ok(scores);
    }
    let size = scores.size();
    let later = Tensor::f_ones(&size[2..], (Kind::Bool, scores.device()))?.f_triu(1)?;
    scores.f_masked_fill(&later, f64::NEG_INFINITY)
}

/// Queries of one block, with what came out for them when they had seen all keys.
struct Seen {
    q: Tensor,
    o: Tensor,
    lse: Tensor,
    causal: bool,
}

impl Seen {
    /// Gradients of queries, keys and values of the block: the probabilities come back from the scores and the whole
    /// log-sum-exp.
    fn gradients(&self, k: &Tensor, v: &Tensor, grad: &Tensor) -> Result<(Tensor, Tensor, Tensor), TchError> {
        let Self { q, o, lse, causal } = self;
        if q.device() == Device::Cpu {
            return Tensor::f_internal_scaled_dot_product_flash_attention_for_cpu_backward(
                grad,
                q,
                k,
                v,
                o,
                lse,
                0.0,
                *causal,
                None::<Tensor>,
                None,
            );
        }
        let float = |x: &Tensor| x.f_to_kind(Kind::Float);
        let (grad, o, v) = (float(grad)?, float(o)?, float(v)?);
        let probabilities = masked_scores(q, k, *causal)?.f_sub(&lse.f_unsqueeze(-1)?)?.f_exp()?;
        let dv = probabilities.f_transpose(2, 3)?.f_matmul(&grad)?;
        let mean = grad.f_mul(&o)?.f_sum_dim_intlist([-1].as_slice(), true, Kind::Float)?;
        let change = grad.f_matmul(&v.f_transpose(2, 3)?)?.f_sub(&mean)?;
        let dscores = probabilities.f_mul(&change)?.f_mul_scalar(scale(q))?;
        let dq = dscores.f_matmul(&float(k)?)?;
        let dk = dscores.f_transpose(2, 3)?.f_matmul(&float(q)?)?;
        Ok((dq, dk, dv))
    }
}
