//! A LoRA adapter that Hugging Face's PEFT wrote: `adapter_config.json` and `adapter_model.safetensors`.
//!
//! PEFT calls a tensor `base_model.model.NAME`, where NAME is its name in the wrapped model. Each linear has an A and a B;
//! the modules of `modules_to_save` lie beside them under their names in the base.

use super::json::read_json;
use super::placement::{Names, Placement, Values, mismatches, read_all};
use super::safetensors_file::TensorFile;
use crate::error::{EngineError, Result};
use neva_layout::families::freeze_setting;
use neva_layout::{ModelTable, ParamSpec, Part, PeftConfig, is_trainable};
use neva_schemas::{Finetune, Peft, Problem};
use serde_json::Value;
use std::collections::BTreeSet;
use std::collections::btree_map::Entry;
use std::path::{Path, PathBuf};

const CONFIG: &str = "adapter_config.json";
pub(super) const WEIGHTS: &str = "adapter_model.safetensors";
pub(super) const PREFIX: &str = "base_model.model.";
pub(super) const A: &str = ".lora_A.weight";
const B: &str = ".lora_B.weight";

/// A folder with a plain LoRA adapter that PEFT wrote.
#[derive(Debug, Clone, PartialEq)]
pub struct PeftFolder {
    /// The folder.
    pub path: PathBuf,
    /// Its configuration.
    pub config: PeftConfig,
}

impl PeftFolder {
    /// Returns true if `path` looks like a folder of PEFT.
    pub fn is_peft(path: &Path) -> bool {
        path.join(CONFIG).is_file()
    }

    /// Reads `adapter_config.json`.
    ///
    /// # Errors
    /// The adapter is not LoRA as this program computes it: all differences are listed.
    pub fn open(path: &Path) -> Result<Self> {
        let file = path.join(CONFIG);
        let config: Value = read_json(&file)?;
        match PeftConfig::from_json(&config) {
            Ok(config) => Ok(Self {
                path: path.to_owned(),
                config,
            }),
            Err(problems) => Err(EngineError::Content {
                path: file,
                reason: problems.join("; "),
            }),
        }
    }

    /// Reads this rank's local shards of the `wanted` adapters among `specs`, and of the modules in `modules_to_save`.
    ///
    /// # Errors
    /// The adapters are not those of the run, or tensors are missing, unknown or misshapen: all of them are listed.
    pub(super) fn read(
        &self,
        table: &ModelTable,
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
            let Some(name) = key.strip_prefix(PREFIX).and_then(|name| table.canonical_name(name)) else {
                problems.push(format!("`{key}` is not a tensor of an adapter of a LLaVA model"));
                continue;
            };
            match specs.iter().find(|spec| spec.name == name) {
                // A checkpoint holds trained parameters only: a frozen parameter that differs from the base would be lost.
                Some(spec) if !is_trainable(spec, finetune) => {
                    problems.push(format!("`{key}` was trained, but this run freezes it{}", unfreeze_hint(spec)));
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
        problems.extend(mismatches(&names, &expected));
        if !problems.is_empty() && has_other_targets(specs, &names) {
            // The advice comes first, since the end of a long list is not shown.
            let advice = format!(
                "the run has adapters on other modules than the folder: {}",
                set_targets(specs, &names)
            );
            problems.insert(0, advice);
        }
        if problems.is_empty() {
            let own: Vec<_> = expected.iter().filter(|spec| wanted(spec)).cloned().collect();
            read_all(&path, &[file], &names, &own, &expected, placement)
        } else {
            Err(EngineError::Weights { path, problems })
        }
    }

    /// Checks that the settings of the run's adapters equal those of the folder.
    fn check_run(&self, specs: &[ParamSpec], finetune: &Finetune, names: &Names) -> Result<()> {
        let (at, PeftConfig { dim, alpha, .. }) = (self.path.display(), &self.config);
        let set_targets = set_targets(specs, names);
        let Some(lora) = finetune.peft.as_ref().map(Peft::lora) else {
            return Err(EngineError::Run(vec![
                Problem::error("finetune.peft", format!("the run has no adapters, but {at} holds some")).help(format!(
                    "--set peft_scheme=lora --set finetune.peft.dim={dim} --set finetune.peft.alpha={alpha} {set_targets}"
                )),
            ]));
        };
        let mut problems = self.config.differences(lora, &self.path);
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

/// Returns the linears on which the run has adapters.
fn adapted(specs: &[ParamSpec]) -> BTreeSet<&str> {
    let own: BTreeSet<_> = specs.iter().map(|spec| spec.name.as_str()).collect();
    let linears = specs
        .iter()
        .filter_map(|spec| spec.lora.as_ref())
        .map(|module| module.linear.as_str());
    linears.filter(|linear| own.contains(format!("{linear}{B}").as_str())).collect()
}

/// Returns true if the run has one A for several linears that have their own A in the folder.
fn shares_an_a(specs: &[ParamSpec], names: &Names) -> bool {
    let own = |a: &String| specs.iter().any(|spec| spec.name == *a);
    let linears = adapted(specs).into_iter().map(|linear| format!("{linear}{A}"));
    linears.filter(|a| names.contains_key(a)).any(|a| !own(&a))
}

/// Returns the override that gives a run adapters on the same linears as the folder: a pattern for linears with an adapter
/// in every layer, full names for others.
fn set_targets(specs: &[ParamSpec], names: &Names) -> String {
    let pattern = |linear: &str| match linear.split('.').collect::<Vec<_>>()[..] {
        [_, tower, last] => format!("*.{tower}.{last}"),
        [_, tower, .., last] => format!("*.{tower}.*.{last}"),
        _ => linear.to_owned(),
    };
    let theirs: BTreeSet<_> = names.keys().filter_map(|name| name.strip_suffix(A)).collect();
    let others = specs.iter().filter(|spec| spec.used).filter_map(|spec| spec.lora.as_ref());
    let others = others.map(|module| module.linear.as_str());
    let without: BTreeSet<_> = others.filter(|linear| !theirs.contains(linear)).map(pattern).collect();
    let targets = theirs.into_iter().map(|linear| {
        let pattern = pattern(linear);
        if without.contains(&pattern) { linear.to_owned() } else { pattern }
    });
    let targets: BTreeSet<_> = targets.collect();
    format!(
        "--set 'finetune.peft.target_modules={}'",
        Value::from(targets.into_iter().collect::<Vec<_>>())
    )
}

/// Returns true if the run has adapters on other linears than the folder.
fn has_other_targets(specs: &[ParamSpec], names: &Names) -> bool {
    let theirs = names.keys().filter_map(|name| name.strip_suffix(A));
    adapted(specs) != theirs.collect::<BTreeSet<_>>()
}

/// Returns the override that makes a parameter trainable.
fn unfreeze_hint(spec: &ParamSpec) -> String {
    match (freeze_setting(spec.part), spec.part) {
        _ if !spec.used => " (the model never uses it)".into(),
        (None, _) => String::new(),
        (Some(setting), Part::Projection) => format!(": set finetune.model.{setting}=false"),
        (Some(setting), _) => format!(": set {setting}=false in finetune.model and finetune.peft"),
    }
}
