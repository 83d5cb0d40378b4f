//! Activation functions of MLPs.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Activation function, in Hugging Face's names (`transformers.activations.ACT2FN`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `x sigmoid(x)`.
    Silu,
    /// GELU with the error function.
    Gelu,
    /// GELU with the tanh approximation, in Python operations.
    GeluNew,
    /// GELU with the tanh approximation of PyTorch.
    GeluPytorchTanh,
    /// `x sigmoid(1.702 x)`.
    QuickGelu,
    /// `max(x, 0)`.
    Relu,
    /// `max(x, 0)` squared (arXiv:2109.08668).
    Relu2,
}

impl Activation {
    /// All activation functions.
    pub const ALL: [Self; 7] = [
        Self::Silu,
        Self::Gelu,
        Self::GeluNew,
        Self::GeluPytorchTanh,
        Self::QuickGelu,
        Self::Relu,
        Self::Relu2,
    ];

    /// Returns Hugging Face's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Silu => "silu",
            Self::Gelu => "gelu",
            Self::GeluNew => "gelu_new",
            Self::GeluPytorchTanh => "gelu_pytorch_tanh",
            Self::QuickGelu => "quick_gelu",
            Self::Relu => "relu",
            Self::Relu2 => "relu2",
        }
    }
}
