//! Activation functions.

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
