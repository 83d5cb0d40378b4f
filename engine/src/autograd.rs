//! Outputs of autograd functions.

use crate::error::{EngineError, Result};
use tch::Tensor;

/// Returns the only output of a function.
pub(crate) fn one(mut outputs: Vec<Tensor>) -> Result<Tensor> {
    outputs
        .pop()
        .ok_or_else(|| EngineError::Bug("a function with one output returned none".into()))
}
