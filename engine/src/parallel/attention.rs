//! Attention over sequences that are cut over the context axis: keys and values come by on a ring, or are gathered
//! before and once more in the backward pass.
//!
//! What a rank saves grows with its own places only: the probabilities are computed again from the log-sum-exp.

use super::region::one;
use super::ring::Ring;
use crate::comm::Collective;
use crate::error::Result;
use crate::nn::{Backward, CausalAttention, Forward, RowBlock, Segments, join_heads};
use neva_layout::ZigZag;
use neva_schemas::CpCommType;
use neva_torch_ffi::{BoxError, Function, apply};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use tch::{Kind, Tensor};

/// Attention over the places of all ranks of a group, which hold rows zig-zag.
#[derive(Debug)]
pub struct ContextAttention {
    group: Arc<dyn Collective>,
    exchange: CpCommType,
    /// Calls so far. All ranks make the same ones in the same order, so that its number tells a transfer apart.
    calls: AtomicU32,
}

impl ContextAttention {
    /// Over the ranks of `group`.
    pub fn new(group: Arc<dyn Collective>, exchange: CpCommType) -> Self {
        Self {
            group,
            exchange,
            calls: AtomicU32::new(0),
        }
    }
}

impl CausalAttention for ContextAttention {
    fn attend(&self, q_bnsd: &Tensor, k_bnsd: &Tensor, v_bnsd: &Tensor, segments: &Segments) -> Result<Tensor> {
        let exchange = match self.exchange {
            CpCommType::P2p => Exchange::Ring(Ring::new(self.group.clone(), self.calls.fetch_add(1, Ordering::Relaxed))),
            CpCommType::AllGather => Exchange::Gather(self.group.clone()),
        };
        let attention = Attention {
            exchange,
            seen: seen(&self.group, q_bnsd, segments),
            saved: None,
        };
        Ok(join_heads(&one(apply(attention, &[q_bnsd, k_bnsd, v_bnsd])?)?))
    }
}

/// What the queries here see of the keys of each rank.
fn seen(group: &Arc<dyn Collective>, q_bnsd: &Tensor, segments: &Segments) -> Vec<Vec<RowBlock>> {
    let size = q_bnsd.size();
    let zigzag = ZigZag {
        rank: group.rank(),
        ranks: group.size(),
    };
    let (b, s) = (size[0] as usize, size[2] as usize * zigzag.ranks);
    // Causality alone keeps the padding of a single segment out, and rows side by side are one block.
    let segments: Vec<_> = if segments.single() {
        vec![(0..b, 0..s)]
    } else {
        let rows = segments.ranges(s).enumerate();
        rows.flat_map(|(row, ranges)| ranges.into_iter().map(move |range| (row..row + 1, range)))
            .collect()
    };
    let blocks = |of| {
        let blocks = segments.iter().filter_map(|(rows, segment)| {
            let block = zigzag.block(of, s, segment)?;
            Some(RowBlock { rows: rows.clone(), block })
        });
        blocks.collect()
    };
    (0..zigzag.ranks).map(blocks).collect()
}

/// One call of attention.
struct Attention {
    exchange: Exchange,
    /// By rank: the blocks of its keys that the queries here see.
    seen: Vec<Vec<RowBlock>>,
    saved: Option<Saved>,
}

enum Exchange {
    Ring(Ring),
    Gather(Arc<dyn Collective>),
}

struct Saved {
    q_bnsd: Tensor,
    k_bnsd: Tensor,
    v_bnsd: Tensor,
    o_bnsd: Tensor,
    lse_bns: Tensor,
}

impl Function for Attention {
    fn forward(&mut self, inputs: &[&Tensor]) -> Result<Vec<Tensor>, BoxError> {
        let [q_bnsd, k_bnsd, v_bnsd] = [0, 1, 2].map(|index| inputs[index].detach());
        let kv_2bnsd = Tensor::f_stack(&[&k_bnsd, &v_bnsd], 0)?;
        let mut output = Forward::new(&q_bnsd);
        match &self.exchange {
            Exchange::Ring(ring) => ring.forward(kv_2bnsd, |of, kv| output.add(kv, &self.seen[of]))?,
            Exchange::Gather(group) => {
                for (blocks, kv) in self.seen.iter().zip(group.all_gather(&kv_2bnsd)?) {
                    output.add(&kv, blocks)?;
                }
            }
        }
        let (o_bnsd, lse_bns) = output.finish()?;
        let result = o_bnsd.shallow_clone();
        self.saved = Some(Saved {
            q_bnsd,
            k_bnsd,
            v_bnsd,
            o_bnsd,
            lse_bns,
        });
        Ok(vec![result])
    }

    fn backward(&mut self, grads: &[Option<Tensor>]) -> Result<Vec<Option<Tensor>>, BoxError> {
        let saved = self.saved.as_ref().ok_or("attention runs backwards before it ran forwards")?;
        // Where no gradient comes from above, the other ranks wait for this one's keys all the same.
        let do_bnsd = match &grads[0] {
            Some(grad) => grad.shallow_clone(),
            None => saved.o_bnsd.f_zeros_like()?,
        };
        let kv_2bnsd = Tensor::f_stack(&[&saved.k_bnsd, &saved.v_bnsd], 0)?;
        let mut backward = Backward {
            dq_bnsd: saved.o_bnsd.f_zeros_like()?.f_to_kind(Kind::Float)?,
            q_bnsd: saved.q_bnsd.shallow_clone(),
            o_bnsd: saved.o_bnsd.shallow_clone(),
            lse_bns: saved.lse_bns.shallow_clone(),
            do_bnsd,
        };
        let dkv_2bnsd = match &self.exchange {
            Exchange::Ring(ring) => ring.backward(kv_2bnsd, |of, kv, dkv| backward.add(kv, dkv, &self.seen[of]))?,
            Exchange::Gather(group) => {
                let parts = group.all_gather(&kv_2bnsd)?;
                let (size, options) = (kv_2bnsd.size(), (Kind::Float, kv_2bnsd.device()));
                let dkv = Tensor::f_zeros([&[group.size() as i64], size.as_slice()].concat(), options)?;
                for ((blocks, kv), dkv) in self.seen.iter().zip(&parts).zip(dkv.f_unbind(0)?) {
                    backward.add(kv, &dkv, blocks)?;
                }
                group.reduce_scatter(&dkv)?
            }
        };
        let kind = saved.q_bnsd.kind();
        let result = |grad: &Tensor| -> Result<Option<Tensor>, BoxError> { Ok(Some(grad.f_to_kind(kind)?)) };
        Ok(vec![
            result(&backward.dq_bnsd)?,
            result(&dkv_2bnsd.f_select(0, 0)?)?,
            result(&dkv_2bnsd.f_select(0, 1)?)?,
        ])
    }
}
