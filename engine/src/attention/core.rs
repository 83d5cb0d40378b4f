//! The attention core: the chosen kernel, and the counters of the kernels that ran.

use super::heads::{join_heads, share_heads};
use super::segments::Segments;
use super::window::{newest, windowed};
use crate::effects::{AttentionKernel, Effects};
use crate::error::Result;
use neva_kernels::{Segment, attention, prefers_blocked_attention};
use neva_schemas::{AttentionBackend, Problem};
use std::ops::Range;
use tch::{Device, Kind, Tensor};

/// Attention kernel of a run.
#[derive(Debug, Clone, Default)]
pub struct AttentionCore {
    backend: AttentionBackend,
    effects: Effects,
}

impl AttentionCore {
    /// Creates a core that computes with `backend` and counts its calls.
    pub fn new(backend: AttentionBackend, effects: &Effects) -> Self {
        Self {
            backend,
            effects: effects.clone(),
        }
    }

    /// Computes causal (`Some(segments)`) or full (`None`) attention. If there are fewer key heads than query heads, groups
    /// of query heads share one (GQA, arXiv:2305.13245). Shapes `[b, n, s, d]`; returns `[b, s, n * d]`.
    ///
    /// # Errors
    /// There is no memory.
    pub fn attend(&self, q_bnsd: &Tensor, k_bnsd: &Tensor, v_bnsd: &Tensor, causal: Option<&Segments>) -> Result<Tensor> {
        if let Some(segments) = self.blocked(q_bnsd, k_bnsd, causal) {
            self.effects.add_attention(AttentionKernel::Blocked);
            let o_bnsd = attention(q_bnsd, k_bnsd, v_bnsd, &segments, causal.is_some())?;
            return Ok(join_heads(&o_bnsd));
        }
        let groups = q_bnsd.size()[1] / k_bnsd.size()[1];
        let (k, v) = (share_heads(k_bnsd, groups), share_heads(v_bnsd, groups));
        let o_bnsd = match causal {
            None => self.sdpa([q_bnsd, &k, &v], None, false),
            // A single query is the newest position and attends to all keys within its window.
            Some(segments) if q_bnsd.size()[2] == 1 => {
                let window = segments.window();
                self.sdpa([q_bnsd, &newest(&k, window), &newest(&v, window)], None, false)
            }
            Some(segments) if segments.single() => self.windowed([q_bnsd, &k, &v], segments),
            Some(segments) => self.segmented([q_bnsd, &k, &v], segments),
        };
        Ok(join_heads(&o_bnsd))
    }

    /// Returns the segments of flash attention by our own kernel, if that is faster on this processor than libtorch's.
    fn blocked(&self, q_bnsd: &Tensor, k_bnsd: &Tensor, causal: Option<&Segments>) -> Option<Vec<Segment>> {
        let asked = matches!(self.backend, AttentionBackend::Auto | AttentionBackend::Flash);
        if !asked || !prefers_blocked_attention(q_bnsd, k_bnsd) {
            return None;
        }
        let size = q_bnsd.size();
        let (rows, s) = (size[0] as usize, size[2] as usize);
        let whole = |row| Segment { row, start: 0, len: s };
        let Some(causal) = causal else {
            return Some((0..rows).map(whole).collect());
        };
        if causal.window().is_some_and(|window| window < s) {
            return None;
        }
        let in_row = |(row, ranges): (usize, Vec<Range<usize>>)| {
            ranges.into_iter().map(move |range| Segment {
                row,
                start: range.start,
                len: range.len(),
            })
        };
        Some(causal.ranges(s).enumerate().flat_map(in_row).collect())
    }

    /// Computes causal attention within the window of `segments`.
    fn windowed(&self, qkv: [&Tensor; 3], segments: &Segments) -> Tensor {
        windowed(qkv, segments.window(), |qkv, mask, causal| self.sdpa(qkv, mask, causal))
    }

    /// Computes causal attention within each segment; padding gives zeros.
    fn segmented(&self, qkv: [&Tensor; 3], segments: &Segments) -> Tensor {
        let size = qkv[0].size();
        let (n, s, d) = (size[1], size[2], size[3]);
        let rows = segments.ranges(s as usize).enumerate().map(|(row, ranges)| {
            let mut outputs = Vec::with_capacity(ranges.len() + 1);
            let mut end = 0;
            // No range is empty: an empty query crashes libtorch's CPU kernel.
            for range in ranges {
                let len = range.len() as i64;
                let [q, k, v] = qkv.map(|x| x.narrow(0, row as i64, 1).narrow(2, range.start as i64, len));
                outputs.push(self.windowed([&q, &k, &v], segments));
                end = range.end as i64;
            }
            if end < s {
                outputs.push(Tensor::zeros([1, n, s - end, d], (qkv[0].kind(), qkv[0].device())));
            }
            Tensor::cat(&outputs, 2)
        });
        let rows: Vec<_> = rows.collect();
        Tensor::cat(&rows, 0)
    }

    /// Computes scaled dot-product attention; `mask` is true where a query attends to a key. On a GPU the kernels that
    /// libtorch may choose are a setting of the process.
    fn sdpa(&self, [q, k, v]: [&Tensor; 3], mask: Option<&Tensor>, causal: bool) -> Tensor {
        // Called directly, the kernels add their mask to the scores.
        let additive =
            || mask.map(|mask| Tensor::zeros(mask.size(), (q.kind(), q.device())).masked_fill(&mask.logical_not(), f64::NEG_INFINITY));
        match self.backend {
            AttentionBackend::Unfused if q.device() == Device::Cpu => {
                self.effects.add_attention(AttentionKernel::Unfused);
                Tensor::internal_scaled_dot_product_attention_math(q, k, v, additive(), 0.0, causal, None, None, false).0
            }
            AttentionBackend::Flash if q.device() == Device::Cpu => {
                self.effects.add_attention(AttentionKernel::Flash);
                Tensor::internal_scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, causal, additive(), None).0
            }
            _ => {
                self.effects.add_attention(chosen([q, k, v], mask, causal));
                Tensor::scaled_dot_product_attention(q, k, v, mask, 0.0, causal, None, false)
            }
        }
    }

    /// Counts blocks of context-parallel attention on `device`.
    pub(crate) fn count_block(&self, device: Device) {
        self.effects.add_attention(block_kernel(device));
    }
}

/// Returns the kernel that libtorch chooses: a value of `at::SDPBackend`.
fn chosen([q, k, v]: [&Tensor; 3], mask: Option<&Tensor>, causal: bool) -> AttentionKernel {
    match Tensor::f_internal_fused_sdp_choice(q, k, v, mask, 0.0, causal, None, false) {
        Ok(1) => AttentionKernel::Flash,
        Ok(2) => AttentionKernel::Efficient,
        Ok(3) => AttentionKernel::Fused,
        _ => AttentionKernel::Unfused,
    }
}

/// Returns the kernel of the blocks of context-parallel attention.
fn block_kernel(device: Device) -> AttentionKernel {
    match device {
        Device::Cpu => AttentionKernel::Flash,
        _ => AttentionKernel::Unfused,
    }
}

/// Returns why libtorch has no such kernel on `device` for tensors of `kind`, if it has none. With context parallelism the
/// blocks have one kernel.
pub(crate) fn refuse_backend(backend: AttentionBackend, device: Device, kind: Kind, context_parallel: bool) -> Option<Problem> {
    let path = "finetune.trainer.strategy.attention_backend";
    let name = backend.name();
    let place = if device == Device::Cpu { "a CPU" } else { "a GPU" };
    let (message, help) = if context_parallel {
        let only = block_kernel(device).name();
        if matches!(backend, AttentionBackend::Auto) || name == only {
            return None;
        }
        (
            format!("context parallelism on {place} computes its blocks with `{only}`, not with `{name}`"),
            format!("use auto or {only}, or context_parallel_size=1"),
        )
    } else {
        match (backend, device) {
            (AttentionBackend::Fused, Device::Cpu) => (
                "`fused` is cuDNN's attention, which a CPU has not".to_owned(),
                "use auto, flash or unfused".to_owned(),
            ),
            (AttentionBackend::Fused | AttentionBackend::Flash, device) if device != Device::Cpu && kind == Kind::Float => (
                format!("`{name}` needs bfloat16 or float16 on a GPU, but `precision` is 32"),
                "use auto or unfused, or finetune.trainer.plugins.precision=bf16-mixed".to_owned(),
            ),
            _ => return None,
        }
    };
    Some(Problem::error(path, message).help(help))
}
