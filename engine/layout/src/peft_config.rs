//! `adapter_config.json` of Hugging Face's PEFT, as far as this program supports it.

mod kinds;

pub use kinds::{LLAVA_NON_LORA, llava_adapter};

use crate::lora::Patterns;
use indexmap::IndexMap;
use kinds::kind_problem;
use neva_schemas::{LoRA, Problem};
use serde_json::Value;
use std::path::Path;

/// Settings of PEFT's `LoraConfig` that change the computation. Each is neutral if it is absent, `null`, `false` or
/// empty.
const NEUTRAL_WHEN_EMPTY: &[&str] = &[
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "layer_replication",
    "lora_bias",
    "monteclora_config",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_qalora",
    "velora_config",
];

/// Values of `init_lora_weights` that do not change the base weights; others move a part of them into the adapter.
const PLAIN_INITS: &[&str] = &["gaussian", "eva", "orthogonal"];

/// LoRA in PEFT's format.
#[derive(Debug, Clone, PartialEq)]
pub struct PeftConfig {
    /// Rank of its adapters, `r`.
    pub dim: u64,
    /// Numerator of their scale, `lora_alpha`.
    pub alpha: f64,
    /// Dropout on their input in training, `lora_dropout`.
    pub dropout: f64,
    /// Their scale is `alpha / sqrt(r)`.
    pub use_rslora: bool,
    /// They have magnitudes.
    pub use_dora: bool,
    /// Ranks of single modules, by regular expressions for the end of a name.
    pub rank_pattern: IndexMap<String, u64>,
    /// `lora_alpha` of single modules.
    pub alpha_pattern: IndexMap<String, f64>,
    /// Modules that were trained themselves.
    pub modules_to_save: Vec<String>,
    /// Base model in PEFT's record, if any: a folder, or a name on the hub.
    pub base: Option<String>,
}

impl PeftConfig {
    /// Reads the content of an `adapter_config.json`.
    ///
    /// # Errors
    /// The adapter is of another kind, or uses features that this program does not support; one sentence for each.
    pub fn from_json(config: &Value) -> Result<Self, Vec<String>> {
        if let Some(problem) = kind_problem(config) {
            return Err(vec![problem]);
        }
        let mut problems = differences(config);
        let dim = config.get("r").and_then(Value::as_u64);
        let alpha = config.get("lora_alpha").and_then(Value::as_f64);
        for (name, absent) in [("r", dim.is_none()), ("lora_alpha", alpha.is_none())] {
            if absent {
                problems.push(format!("`{name}` is {}, expected a number", config[name]));
            }
        }
        let ranks = numbers(config, "rank_pattern", Value::as_u64, &mut problems);
        let alphas = numbers(config, "alpha_pattern", Value::as_f64, &mut problems);
        let is_set = |name: &str| config.get(name).and_then(Value::as_bool).unwrap_or_default();
        match (dim, alpha) {
            (Some(dim), Some(alpha)) if problems.is_empty() => Ok(Self {
                dim,
                alpha,
                dropout: config.get("lora_dropout").and_then(Value::as_f64).unwrap_or_default(),
                use_rslora: is_set("use_rslora"),
                use_dora: is_set("use_dora"),
                rank_pattern: ranks,
                alpha_pattern: alphas,
                modules_to_save: strings(config, "modules_to_save"),
                base: config.get("base_model_name_or_path").and_then(Value::as_str).map(str::to_owned),
            }),
            _ => Err(problems),
        }
    }

    /// Returns rank and `alpha` of a linear that has these names.
    ///
    /// # Errors
    /// A pattern is no regular expression.
    pub fn of_linear(&self, names: &[String]) -> Result<(u64, f64), Vec<Problem>> {
        let find = |patterns: &Patterns| names.iter().find_map(|name| patterns.first(name));
        let rank = find(&Patterns::of_ends(self.rank_pattern.keys(), "rank_pattern")?);
        let alpha = find(&Patterns::of_ends(self.alpha_pattern.keys(), "alpha_pattern")?);
        let rank = rank.and_then(|index| self.rank_pattern.get_index(index));
        let alpha = alpha.and_then(|index| self.alpha_pattern.get_index(index));
        Ok((
            rank.map_or(self.dim, |(_, rank)| *rank),
            alpha.map_or(self.alpha, |(_, alpha)| *alpha),
        ))
    }

    /// Returns a sentence for each setting that the run does not apply, though the adapter can be used.
    pub fn unapplied(&self, lora: &LoRA) -> Vec<String> {
        let differs = self.dropout != lora.dropout;
        let dropout = differs.then(|| {
            format!(
                "`lora_dropout` is {:?}, but the run's `dropout` is {:?}: to train as before, --set finetune.peft.dropout={:?}",
                self.dropout, lora.dropout, self.dropout
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

    /// Returns the differences between the adapter in `folder` and the run's `finetune.peft`; patterns are not compared.
    pub fn differences(&self, lora: &LoRA, folder: &Path) -> Vec<Problem> {
        let mut problems = Vec::new();
        let number = |value: f64| value.to_string();
        for (name, own, their_name, theirs) in [
            ("dim", number(lora.dim as f64), "r", number(self.dim as f64)),
            ("alpha", number(lora.alpha), "lora_alpha", number(self.alpha)),
            ("use_rslora", lora.use_rslora.to_string(), "use_rslora", self.use_rslora.to_string()),
            ("use_dora", lora.use_dora.to_string(), "use_dora", self.use_dora.to_string()),
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

/// Reads a map of numbers; absent and `null` are empty.
fn numbers<T>(config: &Value, name: &str, read: impl Fn(&Value) -> Option<T>, problems: &mut Vec<String>) -> IndexMap<String, T> {
    let mut numbers = IndexMap::new();
    match &config[name] {
        Value::Null => {}
        Value::Object(map) => {
            for (pattern, value) in map {
                match read(value) {
                    Some(number) => drop(numbers.insert(pattern.clone(), number)),
                    None => problems.push(format!("`{name}` of {pattern:?} is {value}, expected a number")),
                }
            }
        }
        other => problems.push(format!("`{name}` is {other}, expected names with numbers")),
    }
    numbers
}

/// Reads a list of names; one name alone is a list, too.
fn strings(config: &Value, name: &str) -> Vec<String> {
    match &config[name] {
        Value::String(one) => vec![one.clone()],
        Value::Array(list) => list.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        _ => Vec::new(),
    }
}
