//! Data types of a run's precision.

use neva_schemas::{Precision, TorchDtype};
use tch::Kind;

/// Returns the data type of weights and activations. Master weights, moments and gradient sums are always fp32.
pub(crate) fn compute_kind(precision: Precision) -> Kind {
    kind(precision.dtype())
}

/// Returns libtorch's data type.
pub(crate) fn kind(dtype: TorchDtype) -> Kind {
    match dtype {
        TorchDtype::Float32 => Kind::Float,
        TorchDtype::Bfloat16 => Kind::BFloat16,
        TorchDtype::Float16 => Kind::Half,
    }
}
