//! `adapter_config.json` of Hugging Face's PEFT, as far as this program supports it.

use neva_schemas::{LoRA, Problem};
use serde_json::Value;
use std::path::Path;

/// Settings of PEFT's `LoraConfig` that change the computation. Each is neutral if it is absent, `null`, `false` or
/// empty.
const NEUTRAL_WHEN_EMPTY: &[&str] = &[
    "alora_invocation_tokens",
    "alpha_pattern",
    "arrow_config",
    "kasa_config",
    "layer_replication",
    "lora_bias",
    "monteclora_config",
    "rank_pattern",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_dora",
    "use_qalora",
    "use_rslora",
    "velora_config",
];

/// Values of `init_lora_weights` that do not change the base weights; others move a part of them into the adapter.
const PLAIN_INITS: &[&str] = &["gaussian", "eva", "orthogonal"];

/// Plain LoRA in PEFT's format.
#[derive(Debug, Clone, PartialEq)]
pub struct PeftConfig {
    /// Rank of its adapters, `r`.
    pub dim: u64,
    /// Numerator of their scale, `lora_alpha`.
    pub alpha: f64,
    /// Dropout on their input in training, `lora_dropout`.
    pub dropout: f64,
    /// Base model in PEFT's record, if any: a folder, or a name on the hub.
    pub base: Option<String>,
}

impl PeftConfig {
    /// Reads the content of an `adapter_config.json`.
    ///
    /// # Errors
    /// The adapter uses features that this program does not support; one sentence for each.
    pub fn from_json(config: &Value) -> Result<Self, Vec<String>> {
        let mut problems = differences(config);
        let dim = config.get("r").and_then(Value::as_u64);
        let alpha = config.get("lora_alpha").and_then(Value::as_f64);
        for (name, absent) in [("r", dim.is_none()), ("lora_alpha", alpha.is_none())] {
            if absent {
                problems.push(format!("`{name}` is {}, expected a number", config[name]));
            }
        }
        match (dim, alpha) {
            (Some(dim), Some(alpha)) if problems.is_empty() => Ok(Self {
                dim,
                alpha,
                dropout: config.get("lora_dropout").and_then(Value::as_f64).unwrap_or_default(),
                base: config.get("base_model_name_or_path").and_then(Value::as_str).map(str::to_owned),
            }),
            _ => Err(problems),
        }
    }

    /// Returns a sentence for each setting that this program does not apply, though the adapter can be used.
    pub fn unapplied(&self) -> Vec<String> {
        let dropout = (self.dropout != 0.0).then(|| {
            format!(
                "`lora_dropout` is {:?}, but this version does not support adapter dropout",
                self.dropout
            )
        });
        dropout.into_iter().collect()
    }

    /// Returns the problem of a run that starts from the adapter in `folder` without a base.
    pub fn missing_base(&self, folder: &Path) -> Problem {
        let base = self.base.as_ref();
        let base = base.map_or(String::new(), |base| format!(" (`base_model_name_or_path` is {base:?})"));
        let message = format!("the adapter in {} does not hold the base that it goes with{base}", folder.display());
        Problem::error("finetune.resume.restore_config", message)
            .help("name a folder with the weights of its base: --set finetune.resume.restore_config.path=DIR")
    }

    /// Returns the differences between the adapter in `folder` and the run's `finetune.peft`.
    pub fn differences(&self, lora: &LoRA, folder: &Path) -> Vec<Problem> {
        let mut problems = Vec::new();
        for (name, own, their_name, theirs) in [
            ("dim", lora.dim as f64, "r", self.dim as f64),
            ("alpha", lora.alpha, "lora_alpha", self.alpha),
        ] {
            if own != theirs {
                let setting = format!("finetune.peft.{name}");
                let message = format!(
                    "`{name}` is {own}, but the adapter in {} has `{their_name}` {theirs}",
                    folder.display()
                );
                problems.push(Problem::error(&setting, message).help(format!("--set {setting}={theirs}")));
            }
        }
        problems
    }
}

/// Returns a sentence for each unsupported setting.
fn differences(config: &Value) -> Vec<String> {
    let mut problems = Vec::new();
    let kind = &config["peft_type"];
    if kind != "LORA" {
        problems.push(format!("`peft_type` is {kind}, supported: \"LORA\""));
    }
    let is_neutral = |value: &Value| match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    };
    for name in NEUTRAL_WHEN_EMPTY {
        let value = &config[*name];
        if !is_neutral(value) {
            problems.push(format!("`{name}` is {value}, which this program does not compute"));
        }
    }
    let bias = &config["bias"];
    if !(bias.is_null() || bias == "none") {
        problems.push(format!("`bias` is {bias}, supported: \"none\""));
    }
    let init = &config["init_lora_weights"];
    if init.as_str().is_some_and(|init| !PLAIN_INITS.contains(&init)) {
        problems.push(format!(
            "`init_lora_weights` is {init}, whose adapters go with a changed base: save with `path_initial_model_for_weight_conversion`"
        ));
    }
    problems
}
