//! Data types by their names in PyTorch and NeMo.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Numeric precision of weights and activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Precision {
    /// IEEE single precision.
    #[serde(rename = "32", alias = "fp32")]
    Fp32,
    /// bfloat16 with fp32 master weights. `bf16` is the same, as in NeMo and Megatron.
    #[serde(rename = "bf16-mixed", alias = "bf16")]
    Bf16Mixed,
    /// IEEE half precision with fp32 master weights and a loss scale. `16` and `fp16` are the same, as in NeMo.
    #[serde(rename = "16-mixed", alias = "16", alias = "fp16", alias = "fp16-mixed")]
    Fp16Mixed,
}

impl Precision {
    /// Returns the data type of weights and activations.
    pub fn dtype(self) -> TorchDtype {
        match self {
            Self::Fp32 => TorchDtype::Float32,
            Self::Bf16Mixed => TorchDtype::Bfloat16,
            Self::Fp16Mixed => TorchDtype::Float16,
        }
    }

    /// Returns the name in recipes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fp32 => "32",
            Self::Bf16Mixed => "bf16-mixed",
            Self::Fp16Mixed => "16-mixed",
        }
    }
}

/// Data type by PyTorch's name, with or without `torch.`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TorchDtype {
    /// IEEE single precision.
    #[serde(rename = "float32", alias = "torch.float32", alias = "float", alias = "fp32")]
    Float32,
    /// bfloat16.
    #[serde(rename = "bfloat16", alias = "torch.bfloat16", alias = "bf16")]
    Bfloat16,
    /// IEEE half precision.
    #[serde(rename = "float16", alias = "torch.float16", alias = "half", alias = "torch.half", alias = "fp16")]
    Float16,
}

impl fmt::Display for TorchDtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Float32 => "float32",
            Self::Bfloat16 => "bfloat16",
            Self::Float16 => "float16",
        })
    }
}
