//! What a run's precision means for its tensors.

use neva_schemas::Precision;
use tch::Kind;

/// The kind of weights and activations; master weights, moments and sums of gradients are fp32 in any case.
pub(crate) fn compute_kind(precision: Precision) -> Kind {
    match precision {
        Precision::Fp32 => Kind::Float,
        Precision::Bf16Mixed => Kind::BFloat16,
    }
}
