//! Numeric precision of a run: NeMo's `nl.MegatronMixedPrecision`.

mod dtype;
mod fp8;
mod fp8_rules;
mod loss_scale;
mod mixed;
mod report;
mod validate;

pub use dtype::{Precision, TorchDtype};
pub use fp8::{Fp8, Fp8AmaxComputeAlgo, Fp8Format, Fp8Recipe, MAX_FP8_AMAX_HISTORY, MAX_FP8_MARGIN};
pub use loss_scale::LossScale;
pub use mixed::MixedPrecision;

pub(crate) use fp8_rules::validate_fp8_model;
pub(crate) use validate::validate_precision;
