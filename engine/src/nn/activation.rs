//! Activation functions.

use crate::error::Result;
use neva_schemas::Activation;
use tch::Tensor;

/// Applies an activation function to each value.
pub fn activate(activation: Activation, x: &Tensor) -> Tensor {
    match activation {
        Activation::Silu => x.silu(),
        Activation::Gelu => x.gelu("none"),
        Activation::GeluNew | Activation::GeluPytorchTanh => x.gelu("tanh"),
        Activation::QuickGelu => x * (x * 1.702).sigmoid(),
        Activation::Relu => x.relu(),
        Activation::Relu2 => x.relu().square(),
    }
}

/// Multiplies a gate, after its activation function, by the values that it lets through (arXiv:2002.05202).
///
/// # Errors
/// libtorch or the GPU refused.
pub fn gated(activation: Activation, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    Ok(match activation {
        Activation::Silu => neva_kernels::swiglu(gate, up)?,
        _ => activate(activation, gate).f_mul(up)?,
    })
}
