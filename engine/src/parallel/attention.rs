//! Attention with context parallelism: keys and values travel around a ring, or are gathered before the forward pass and
//! again before the backward pass.
//!
//! Saved activations grow with the local sequence length only: probabilities are recomputed from the log-sum-exp.

use super::ring::Ring;
use crate::attention::{AttentionCore, Backward, CausalAttention, Forward, RowBlock, Segments, join_heads};
use crate::autograd::one;
use crate::comm::ProcessGroup;
use crate::error::Result;
use neva_layout::ZigZag;
use neva_schemas::CpCommType;
use neva_torch_ffi::{BoxError, Function, apply};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use tch::{Kind, Tensor};

/// Attention over the positions of all ranks of a context-parallel group with zig-zag partition.
#[derive(Debug)]
pub struct ContextAttention {
    group: Arc<dyn ProcessGroup>,
    exchange: CpCommType,
    /// Number of calls. All ranks make the same calls in the same order, so the number identifies transfers.
    calls: AtomicU32,
    core: AttentionCore,
}

impl ContextAttention {
    /// Creates attention over the ranks of `group`.
    pub fn new(group: Arc<dyn ProcessGroup>, exchange: CpCommType) -> Self {
        Self {
            group,
            exchange,
            calls: AtomicU32::new(0),
            core: AttentionCore::default(),
        }
    }

    /// Counts the calls with the other work of a model.
    pub fn counted(self, core: AttentionCore) -> Self {
        Self { core, ..self }
    }
}

impl CausalAttention for ContextAttention {
    fn attend(&self, q_bnsd: &Tensor, k_bnsd: &Tensor, v_bnsd: &Tensor, segments: &Segments) -> Result<Tensor> {
        self.core.count_block(q_bnsd.device());
        let exchange = match self.exchange {
            CpCommType::P2p => Exchange::Ring(Ring::new(self.group.clone(), self.calls.fetch_add(1, Ordering::Relaxed))),
            CpCommType::AllGather => Exchange::Gather(self.group.clone()),
        };
        let attention = Attention {
            exchange,
            blocks: blocks_by_rank(&self.group, q_bnsd, segments),
            saved: None,
        };
        Ok(join_heads(&one(apply(attention, &[q_bnsd, k_bnsd, v_bnsd])?)?))
    }
}

/// Returns, for each rank, the blocks of its keys that the local queries attend to.
fn blocks_by_rank(group: &Arc<dyn ProcessGroup>, q_bnsd: &Tensor, segments: &Segments) -> Vec<Vec<RowBlock>> {
    let size = q_bnsd.size();
    let zigzag = ZigZag {
        rank: group.rank(),
        ranks: group.size(),
    };
    let (b, s) = (size[0] as usize, size[2] as usize * zigzag.ranks);
    // The causal mask alone excludes padding of a single segment, so all rows are one block.
    let window = segments.window().filter(|window| *window < s);
    let segments: Vec<_> = if segments.single() {
        vec![(0..b, 0..s)]
    } else {
        let rows = segments.ranges(s).enumerate();
        rows.flat_map(|(row, ranges)| ranges.into_iter().map(move |range| (row..row + 1, range)))
            .collect()
    };
    let blocks = |of| {
        let blocks = segments.iter().flat_map(|(rows, segment)| {
            let blocks = match window {
                Some(window) => zigzag.windowed_blocks(of, s, segment, window),
                None => zigzag.block(of, s, segment).into_iter().collect(),
            };
            let rows = rows.clone();
            blocks.into_iter().map(move |block| RowBlock { rows: rows.clone(), block })
        });
        blocks.collect()
    };
    (0..zigzag.ranks).map(blocks).collect()
}

/// One call of attention.
struct Attention {
    exchange: Exchange,
    /// By rank: the blocks of its keys that the local queries attend to.
    blocks: Vec<Vec<RowBlock>>,
    saved: Option<Saved>,
}

enum Exchange {
    Ring(Ring),
    Gather(Arc<dyn ProcessGroup>),
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
            Exchange::Ring(ring) => ring.forward(kv_2bnsd, |rank, kv| output.add(kv, &self.blocks[rank]))?,
            Exchange::Gather(group) => {
                for (blocks, kv) in self.blocks.iter().zip(group.all_gather(&kv_2bnsd)?) {
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
        let saved = self
            .saved
            .as_ref()
            .ok_or("the backward pass of attention comes before its forward pass")?;
        // Without an output gradient the other ranks still need this rank's keys.
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
            Exchange::Ring(ring) => ring.backward(kv_2bnsd, |rank, kv, dkv| backward.add(kv, dkv, &self.blocks[rank]))?,
            Exchange::Gather(group) => {
                let shards = group.all_gather(&kv_2bnsd)?;
                let (size, options) = (kv_2bnsd.size(), (Kind::Float, kv_2bnsd.device()));
                let dkv = Tensor::f_zeros([&[group.size() as i64], size.as_slice()].concat(), options)?;
                for ((blocks, kv), dkv) in self.blocks.iter().zip(&shards).zip(dkv.f_unbind(0)?) {
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
