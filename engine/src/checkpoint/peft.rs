//! A LoRA adapter that Hugging Face's PEFT wrote: `adapter_config.json` and `adapter_model.safetensors`.
//!
//! PEFT calls a tensor `base_model.model.NAME`, where NAME is the wrapped model's own name for it. Each linear has an A
//! and a B; what `modules_to_save` names lies beside them under the names of the base.

use super::folder::read_json;
use super::safetensors_file::TensorFile;
use super::weights::{Names, Placement, Values, misfits, read_all};
use crate::error::{EngineError, Result};
use neva_layout::{ParamSpec, Part, canonical_name, is_trainable};
use neva_schemas::{Finetune, Peft, Problem};
use serde_json::Value;
use std::collections::BTreeSet;
use std::collections::btree_map::Entry;
use std::path::{Path, PathBuf};

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
const PREFIX: &str = "base_model.model.";
const A: &str = ".lora_A.weight";
const B: &str = ".lora_B.weight";

/// Settings of PEFT's `LoraConfig` that change what an adapter computes. Each is at rest where it is absent, `null`,
/// `false` or empty.
const AT_REST: &[&str] = &[
    "alora_invocation_tokens",
    "alpha_pattern",
    "arrow_config",
    "kasa_config",
    "layer_replication",
    "lora_bias",
    "monteclora_config",
    "rank_pattern",
    "use_bdlora",
    "use_dora",
    "use_qalora",
    "use_rslora",
    "velora_config",
];

/// Ways of initializing (`init_lora_weights`) that leave the base as it is; others move a part of it into the adapter.
const PLAIN_INITS: &[&str] = &["gaussian", "eva", "orthogonal"];

/// A folder that PEFT wrote, and that holds plain LoRA.
#[derive(Debug, Clone, PartialEq)]
pub struct PeftFolder {
    /// The folder.
    pub path: PathBuf,
    /// Rank of its adapters, `r`.
    pub dim: u64,
    /// Numerator of their scale, `lora_alpha`.
    pub alpha: f64,
    /// The base as PEFT knew it, if it did: a folder, or a name on the hub.
    pub base: Option<String>,
}

impl PeftFolder {
    /// Whether `path` looks like a folder of PEFT.
    pub fn is_one(path: &Path) -> bool {
        path.join(CONFIG).is_file()
    }

    /// Reads `adapter_config.json`.
    ///
    /// # Errors
    /// It is not LoRA as this program computes it: everything that differs is named.
    pub fn open(path: &Path) -> Result<Self> {
        let file = path.join(CONFIG);
        let config: Value = read_json(&file)?;
        let mut problems = differences(&config);
        let dim = config.get("r").and_then(Value::as_u64);
        let alpha = config.get("lora_alpha").and_then(Value::as_f64);
        for (name, absent) in [("r", dim.is_none()), ("lora_alpha", alpha.is_none())] {
            if absent {
                problems.push(format!("`{name}` is {}, expected a number", config[name]));
            }
        }
        match (dim, alpha) {
            (Some(dim), Some(alpha)) if problems.is_empty() => Ok(Self {
                path: path.to_owned(),
                dim,
                alpha,
                base: config.get("base_model_name_or_path").and_then(Value::as_str).map(str::to_owned),
            }),
            _ => Err(EngineError::Content {
                path: file,
                reason: problems.join("; "),
            }),
        }
    }

    /// This rank's part of every adapter among `specs`, and of what `modules_to_save` named, where it is `wanted`.
    ///
    /// # Errors
    /// The adapters are not those of the run, or a tensor is missing, foreign or misshapen: all of them are listed.
    pub(super) fn read(
        &self,
        specs: &[ParamSpec],
        wanted: &dyn Fn(&ParamSpec) -> bool,
        finetune: &Finetune,
        placement: Placement,
    ) -> Result<Values> {
        let path = self.path.join(WEIGHTS);
        let file = TensorFile::open(&path)?;
        let mut names = Names::new();
        let mut problems = Vec::new();
        let mut expected: Vec<_> = specs.iter().filter(|spec| spec.part == Part::Adapter).cloned().collect();
        for (key, shape) in file.tensors() {
            let Some(name) = key.strip_prefix(PREFIX).and_then(canonical_name) else {
                problems.push(format!("`{key}` is no tensor of an adapter of a LLaVA model"));
                continue;
            };
            match specs.iter().find(|spec| spec.name == name) {
                // A checkpoint holds what its run trained: a frozen parameter that is not the base's would be lost.
                Some(spec) if !is_trainable(spec, finetune) => {
                    problems.push(format!("`{key}` was trained, but this run freezes it{}", thaw(spec)));
                    continue;
                }
                Some(spec) if spec.part != Part::Adapter => expected.push(spec.clone()),
                _ => {}
            }
            match names.entry(name) {
                Entry::Occupied(first) => problems.push(format!("`{key}` is a second tensor for `{}`", first.key())),
                Entry::Vacant(free) => drop(free.insert((0, key, shape))),
            }
        }
        self.check_run(specs, finetune, &names)?;
        problems.extend(misfits(&names, &expected));
        if problems.is_empty() {
            let own: Vec<_> = expected.iter().filter(|spec| wanted(spec)).cloned().collect();
            read_all(&path, &[file], &names, &own, &expected, placement)
        } else {
            Err(EngineError::Weights { path, problems })
        }
    }

    /// The settings of the run's adapters must be those of the folder's.
    fn check_run(&self, specs: &[ParamSpec], finetune: &Finetune, names: &Names) -> Result<()> {
        let (at, dim, alpha) = (self.path.display(), self.dim, self.alpha);
        let set_targets = format!("--set 'finetune.peft.target_modules={}'", Value::from(targets(names)));
        let Some(lora) = finetune.peft.as_ref().map(Peft::lora) else {
            return Err(EngineError::Run(vec![
                Problem::error("finetune.peft", format!("the run has no adapters, but {at} holds some")).help(format!(
                    "--set peft_scheme=lora --set finetune.peft.dim={dim} --set finetune.peft.alpha={alpha} {set_targets}"
                )),
            ]));
        };
        let mut problems = Vec::new();
        for (name, own, their_name, theirs) in [
            ("dim", lora.dim as f64, "r", dim as f64),
            ("alpha", lora.alpha, "lora_alpha", alpha),
        ] {
            if own != theirs {
                let setting = format!("finetune.peft.{name}");
                let message = format!("`{name}` is {own}, but the adapter in {at} has `{their_name}` {theirs}");
                problems.push(Problem::error(&setting, message).help(format!("--set {setting}={theirs}")));
            }
        }
        if shares_an_a(specs, names) {
            let message = format!(
                "a fused module (`linear_qkv`, `linear_fc1`) has one A for all its linears, but the adapter in {at} has one for each"
            );
            problems.push(Problem::error("finetune.peft.target_modules", message).help(set_targets));
        }
        if problems.is_empty() {
            Ok(())
        } else {
            Err(EngineError::Run(problems))
        }
    }
}

/// Everything in a configuration that this program would compute otherwise.
fn differences(config: &Value) -> Vec<String> {
    let mut problems = Vec::new();
    let kind = &config["peft_type"];
    if kind != "LORA" {
        problems.push(format!("`peft_type` is {kind}, supported: \"LORA\""));
    }
    let rests = |value: &Value| match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    };
    for name in AT_REST {
        let value = &config[*name];
        if !rests(value) {
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

/// Whether the run has one A for linears that the folder has an A each for.
fn shares_an_a(specs: &[ParamSpec], names: &Names) -> bool {
    let own = |a: &String| specs.iter().any(|spec| spec.name == *a);
    let linears = specs.iter().filter_map(|spec| spec.name.strip_suffix(B));
    linears
        .map(|linear| format!("{linear}{A}"))
        .any(|a| names.contains_key(&a) && !own(&a))
}

/// Patterns of `target_modules` that name the linears that the folder has adapters of.
fn targets(names: &Names) -> Vec<String> {
    let linears = names.keys().filter_map(|name| name.strip_suffix(A));
    let pattern = |linear: &str| match linear.split('.').collect::<Vec<_>>()[..] {
        [_, tower, last] => format!("*.{tower}.{last}"),
        [_, tower, .., last] => format!("*.{tower}.*.{last}"),
        _ => linear.to_owned(),
    };
    linears.map(pattern).collect::<BTreeSet<_>>().into_iter().collect()
}

/// Where to look for what freezes a parameter.
fn thaw(spec: &ParamSpec) -> &'static str {
    match spec.part {
        _ if !spec.used => " (the model never uses it)",
        Part::Projection => ": set finetune.model.freeze_vision_projection=false",
        Part::Vision => ": set freeze_vision_model=false in finetune.model and finetune.peft",
        Part::Language => ": set freeze_language_model=false in finetune.model and finetune.peft",
        Part::Adapter => "",
    }
}
