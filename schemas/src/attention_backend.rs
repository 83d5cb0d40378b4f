//! Choice of the attention kernel.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Attention kernel: Megatron's `attention_backend`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AttentionBackend {
    /// libtorch's choice.
    #[default]
    Auto,
    /// Flash attention (arXiv:2307.08691).
    Flash,
    /// cuDNN's fused attention, on GPUs only.
    Fused,
    /// Matrix products and a softmax. `local` is the same.
    #[serde(alias = "local")]
    Unfused,
}

impl AttentionBackend {
    /// Returns the name in recipes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Flash => "flash",
            Self::Fused => "fused",
            Self::Unfused => "unfused",
        }
    }
}
