//! Data types of a run's precision.

use neva_schemas::Precision;
use tch::Kind;

/// Returns the data type of weights and activations. Master weights, moments and gradient sums are always fp32.
pub(crate) fn compute_kind(precision: Precision) -> Kind {
    match precision {
        Precision::Fp32 => Kind::Float,
        Precision::Bf16Mixed => Kind::BFloat16,
        Precision::Fp16Mixed => Kind::Half,
    }
}
