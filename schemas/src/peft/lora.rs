//! Settings of low-rank adapters. The schemes have the same fields and differ in their defaults.

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where dropout acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DropoutPosition {
    /// On the input of A, as in PEFT.
    Pre,
    /// On the output of B.
    Post,
}

/// Initial values of A or B, as NeMo names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LoraInit {
    /// All 0.
    Zero,
    /// `xavier_normal_`.
    Xavier,
    /// `kaiming_uniform_` with `a = sqrt(5)`, as PEFT starts A.
    #[serde(alias = "uniform")]
    Kaiming,
    /// Normal with a standard deviation of 0.2.
    Normal,
}

/// Data type in which frozen weights are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Quantization {
    /// 4-bit NormalFloat in blocks of 64, their scales in 8 bits in blocks of 256, as bitsandbytes with
    /// `bnb_4bit_use_double_quant` (QLoRA).
    Nf4,
}

/// Defines a scheme with the settings of LoRA.
macro_rules! scheme {
    ($(#[$doc:meta])* $visibility:vis $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields, default)]
        $visibility struct $name {
            /// Target modules of the adapters: last components (`linear_qkv`, `q_proj`) or wildcards on full names. Empty, or
            /// `all-linear`: every linear except the head.
            pub target_modules: Vec<String>,
            /// Modules that get no adapter; only with empty `target_modules`.
            pub exclude_modules: Vec<String>,
            /// Rank of the adapters.
            pub dim: usize,
            /// Numerator of the scaling factor `alpha / dim`.
            pub alpha: f64,
            /// Dropout probability in training.
            pub dropout: f64,
            /// Where dropout acts: on the input of A (`pre`) or on the output of B (`post`).
            pub dropout_position: DropoutPosition,
            /// Initial values of A.
            #[serde(rename = "lora_A_init")]
            pub lora_a_init: LoraInit,
            /// Initial values of B.
            #[serde(rename = "lora_B_init")]
            pub lora_b_init: LoraInit,
            /// NeMo's other communication of adapters, which is not needed here.
            pub a2a_experimental: bool,
            /// Scale of adapters in the diffusers' format, which this model does not have.
            pub network_alpha: Option<f64>,
            /// Scales by `alpha / sqrt(dim)` in place of `alpha / dim` (rsLoRA).
            pub use_rslora: bool,
            /// Trains the length of each row of the adapted weights, too (DoRA).
            pub use_dora: bool,
            /// Ranks of single modules: PEFT's regular expressions for the end of a name. The first that matches counts.
            pub rank_pattern: IndexMap<String, usize>,
            /// `alpha` of single modules, as `rank_pattern`.
            pub alpha_pattern: IndexMap<String, f64>,
            /// Modules that are trained themselves though their part is frozen: last components, or wildcards on full names.
            pub modules_to_save: Vec<String>,
            /// Keeps the frozen linears of the language model in 4 bits (QLoRA).
            pub quantization: Option<Quantization>,
            /// Freezes the base weights of the language model.
            pub freeze_language_model: bool,
            /// Freezes the vision encoder.
            pub freeze_vision_model: bool,
            /// True if the linears of a fused module have NeMo's canonical names (`linear_q`) and adapters of their own.
            #[serde(skip)]
            pub canonical: bool,
        }
    };
}

scheme!(
    /// `y = W x + (alpha / dim) B A dropout(x)`, with NeMo's defaults (`vlm.LoRA`).
    pub LoRA
);
scheme!(
    /// LoRA with an adapter for each linear, with NeMo's defaults (`llm.peft.CanonicalLoRA`).
    pub(super) CanonicalLoRA
);
scheme!(
    /// LoRA with a trained length for each row of the weights, with NeMo's defaults (`llm.peft.DoRA`).
    pub(super) DoRA
);

/// Modules of a decoder layer, as NeMo's `llm.peft.LoRA` targets them.
const LAYER_MODULES: [&str; 4] = ["linear_qkv", "linear_proj", "linear_fc1", "linear_fc2"];

/// Linears of a decoder layer in NeMo's canonical names.
const LAYER_LINEARS: [&str; 7] = [
    "linear_q",
    "linear_k",
    "linear_v",
    "linear_proj",
    "linear_fc1_up",
    "linear_fc1_gate",
    "linear_fc2",
];

impl Default for LoRA {
    fn default() -> Self {
        Self {
            target_modules: ["linear_qkv", "linear_q", "linear_kv", "linear_proj", "linear_fc1", "linear_fc2"]
                .map(|module| format!("*.language_model.*.{module}"))
                .to_vec(),
            exclude_modules: Vec::new(),
            dim: 32,
            alpha: 32.0,
            dropout: 0.0,
            dropout_position: DropoutPosition::Pre,
            lora_a_init: LoraInit::Xavier,
            lora_b_init: LoraInit::Zero,
            a2a_experimental: false,
            network_alpha: None,
            use_rslora: false,
            use_dora: false,
            rank_pattern: IndexMap::new(),
            alpha_pattern: IndexMap::new(),
            modules_to_save: Vec::new(),
            quantization: None,
            freeze_language_model: true,
            freeze_vision_model: false,
            canonical: false,
        }
    }
}

/// Converts between schemes by their fields.
macro_rules! same_fields {
    ($from:ident, $to:ident) => {
        impl From<$from> for $to {
            fn from(from: $from) -> Self {
                Self {
                    target_modules: from.target_modules,
                    exclude_modules: from.exclude_modules,
                    dim: from.dim,
                    alpha: from.alpha,
                    dropout: from.dropout,
                    dropout_position: from.dropout_position,
                    lora_a_init: from.lora_a_init,
                    lora_b_init: from.lora_b_init,
                    a2a_experimental: from.a2a_experimental,
                    network_alpha: from.network_alpha,
                    use_rslora: from.use_rslora,
                    use_dora: from.use_dora,
                    rank_pattern: from.rank_pattern,
                    alpha_pattern: from.alpha_pattern,
                    modules_to_save: from.modules_to_save,
                    quantization: from.quantization,
                    freeze_language_model: from.freeze_language_model,
                    freeze_vision_model: from.freeze_vision_model,
                    canonical: from.canonical,
                }
            }
        }
    };
}

same_fields!(CanonicalLoRA, LoRA);
same_fields!(LoRA, CanonicalLoRA);
same_fields!(DoRA, LoRA);
same_fields!(LoRA, DoRA);

impl Default for CanonicalLoRA {
    fn default() -> Self {
        let lora = LoRA {
            target_modules: LAYER_LINEARS.map(str::to_owned).to_vec(),
            canonical: true,
            ..LoRA::default()
        };
        lora.into()
    }
}

impl Default for DoRA {
    fn default() -> Self {
        let lora = LoRA {
            target_modules: LAYER_MODULES.map(str::to_owned).to_vec(),
            alpha: 64.0,
            use_dora: true,
            ..LoRA::default()
        };
        lora.into()
    }
}

impl LoRA {
    /// Returns the factor of `B A` of an adapter.
    pub fn scale(&self, alpha: f64, rank: usize) -> f64 {
        let rank = rank as f64;
        alpha / if self.use_rslora { rank.sqrt() } else { rank }
    }

    /// Returns true if every linear is a target, unless `exclude_modules` names it.
    pub fn targets_all(&self) -> bool {
        match self.target_modules.as_slice() {
            [] => true,
            [only] => only == ALL_LINEAR,
            _ => false,
        }
    }
}

/// PEFT's name for every linear except the head.
pub(super) const ALL_LINEAR: &str = "all-linear";
