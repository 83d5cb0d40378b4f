//! Counters of what a run computed, as opposed to what was asked for: matrix products by data type, attention kernels and
//! adapters. All handles of a model count together.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tch::{Kind, Tensor};

/// Group of linears whose products are counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GemmGroup {
    /// Linears of the vision encoder.
    Vision,
    /// Linears of the projector.
    Projector,
    /// Base linears of the language model's layers.
    Decoder,
    /// Matrices A and B of the adapters.
    Adapters,
    /// The head.
    Head,
}

impl GemmGroup {
    /// All groups, in the order of the counters.
    pub const ALL: [Self; 5] = [Self::Vision, Self::Projector, Self::Decoder, Self::Adapters, Self::Head];

    /// Returns the name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Vision => "vision encoder",
            Self::Projector => "projector",
            Self::Decoder => "decoder linears",
            Self::Adapters => "adapters",
            Self::Head => "head",
        }
    }
}

/// Data type of the operands of a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GemmKind {
    /// IEEE single precision.
    Fp32,
    /// bfloat16.
    Bf16,
    /// IEEE half precision.
    Fp16,
    /// FP8.
    Fp8,
    /// FP8 operands that were multiplied in another data type, because the hardware has no such product.
    Fp8Emulated,
}

impl GemmKind {
    /// All data types, in the order of the counters.
    pub const ALL: [Self; 5] = [Self::Fp32, Self::Bf16, Self::Fp16, Self::Fp8, Self::Fp8Emulated];

    /// Returns the name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fp32 => "float32",
            Self::Bf16 => "bfloat16",
            Self::Fp16 => "float16",
            Self::Fp8 => "fp8",
            Self::Fp8Emulated => "fp8 (emulated)",
        }
    }

    /// Returns the data type of a product of tensors of `kind`.
    pub fn of(kind: Kind) -> Self {
        match kind {
            Kind::BFloat16 => Self::Bf16,
            Kind::Half => Self::Fp16,
            _ => Self::Fp32,
        }
    }
}

/// Kernel of an attention core.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttentionKernel {
    /// libtorch's flash attention.
    Flash,
    /// Our own flash attention of the processor.
    Blocked,
    /// cuDNN's.
    Fused,
    /// libtorch's memory-efficient attention.
    Efficient,
    /// Matrix products and a softmax.
    Unfused,
}

impl AttentionKernel {
    /// All kernels, in the order of the counters.
    pub const ALL: [Self; 5] = [Self::Flash, Self::Blocked, Self::Fused, Self::Efficient, Self::Unfused];

    /// Returns the name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Blocked => "flash (blocked)",
            kernel => kernel.backend(),
        }
    }

    /// Returns the name of the setting `attention_backend` that asks for it.
    pub fn backend(self) -> &'static str {
        match self {
            Self::Flash | Self::Blocked => "flash",
            Self::Fused => "fused",
            Self::Efficient => "efficient",
            Self::Unfused => "unfused",
        }
    }
}

const GEMMS: usize = GemmGroup::ALL.len() * GemmKind::ALL.len();

/// Counters of this rank's work.
#[derive(Debug, Default)]
struct Counts {
    /// Floating point operations by group and data type.
    flops: [AtomicU64; GEMMS],
    /// Calls by kernel.
    attention: [AtomicU64; AttentionKernel::ALL.len()],
    /// Positions whose last hidden states were computed, and all positions.
    outputs: [AtomicU64; 2],
    adapted: Mutex<BTreeSet<String>>,
}

/// A handle of the counters.
#[derive(Debug, Clone, Default)]
pub struct Effects(Arc<Counts>);

impl Effects {
    /// Returns a meter of the products of one linear.
    pub fn meter(&self, group: GemmGroup) -> GemmMeter {
        GemmMeter {
            effects: self.clone(),
            group,
        }
    }

    /// Counts a call of an attention kernel.
    pub fn add_attention(&self, kernel: AttentionKernel) {
        self.0.attention[kernel as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts positions whose last hidden states were computed, and all positions.
    pub fn add_outputs(&self, counts: [u64; 2]) {
        for (sum, count) in self.0.outputs.iter().zip(counts) {
            sum.fetch_add(count, Ordering::Relaxed);
        }
    }

    /// Notes that a linear was built with an adapter.
    pub fn add_adapter(&self, linear: &str) {
        self.adapted_names().insert(linear.to_owned());
    }

    /// Returns the linears that were built with an adapter.
    pub fn adapted(&self) -> BTreeSet<String> {
        self.adapted_names().clone()
    }

    /// Returns the floating point operations, by group and then by data type.
    pub fn flops(&self) -> [u64; GEMMS] {
        self.0.flops.each_ref().map(|flops| flops.load(Ordering::Relaxed))
    }

    /// Returns the calls of each attention kernel.
    pub fn attention(&self) -> [u64; AttentionKernel::ALL.len()] {
        self.0.attention.each_ref().map(|calls| calls.load(Ordering::Relaxed))
    }

    /// Returns the positions whose last hidden states were computed, and all positions.
    pub fn outputs(&self) -> [u64; 2] {
        self.0.outputs.each_ref().map(|count| count.load(Ordering::Relaxed))
    }

    fn adapted_names(&self) -> std::sync::MutexGuard<'_, BTreeSet<String>> {
        self.0.adapted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counter of the products of one linear.
#[derive(Debug, Clone)]
pub struct GemmMeter {
    effects: Effects,
    group: GemmGroup,
}

impl GemmMeter {
    /// Counts a product of `[m, k]` and `[k, n]`: `2 m k n` operations.
    pub fn product(&self, kind: GemmKind, [m, k, n]: [i64; 3]) {
        let flops = [m, k, n]
            .iter()
            .fold(2u64, |flops, size| flops.saturating_mul(u64::try_from(*size).unwrap_or(0)));
        let index = self.group as usize * GemmKind::ALL.len() + kind as usize;
        self.effects.0.flops[index].fetch_add(flops, Ordering::Relaxed);
    }

    /// Counts the products of `y = x W^T` that libtorch differentiates itself: the forward product, and those of its backward
    /// pass, which follow from the operands that need a gradient.
    pub fn linear(&self, x: &Tensor, weight: &Tensor, y: &Tensor) {
        let sizes = weight.size();
        let (Some(n), Some(k)) = (sizes.first(), sizes.last()) else {
            return;
        };
        let m = x.numel() as i64 / (*k).max(1);
        let mut products = 1;
        if y.requires_grad() {
            products += usize::from(x.requires_grad()) + usize::from(weight.requires_grad());
        }
        for _ in 0..products {
            self.product(GemmKind::of(x.kind()), [m, *k, *n]);
        }
    }
}
