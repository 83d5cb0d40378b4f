//! A LoRA adapter that Hugging Face's PEFT wrote: `adapter_config.json` and `adapter_model.safetensors` or
//! `adapter_model.bin`.
//!
//! PEFT calls a tensor `base_model.model.NAME`, where NAME is its name in the wrapped model. Each linear has an A and a B, with
//! DoRA also a magnitude; the modules of `modules_to_save` lie beside them under their names in the base.

mod advice;
mod check;
mod settings;
mod tensors;

use super::json::read_json;
use super::placement::{Names, Placement, Values, all_finite, mismatches};
use crate::error::{EngineError, Result};
use advice::{has_other_targets, of_another_model, set_targets, unfreeze_hint};
use neva_layout::{LLAVA_NON_LORA, ModelTable, ParamSpec, Part, PeftConfig, is_trainable, llava_adapter, saves_module};
use neva_schemas::Finetune;
use serde_json::Value;
use std::collections::btree_map::Entry;
use std::path::{Path, PathBuf};
use tensors::AdapterFile;

const CONFIG: &str = "adapter_config.json";
const PREFIX: &str = "base_model.model.";
const A: &str = ".lora_A.weight";
const B: &str = ".lora_B.weight";
const MAGNITUDE: &str = ".lora_magnitude_vector";

/// A folder with a LoRA adapter that PEFT wrote.
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

    /// Reads `adapter_config.json`. `setting` names the folder.
    ///
    /// # Errors
    /// The adapter is of another kind, or not LoRA as this program computes it: all differences are listed.
    pub fn open(path: &Path, setting: &str) -> Result<Self> {
        let beside = path.join("config.json");
        let beside: Option<Value> = beside.is_file().then(|| read_json(&beside)).transpose()?;
        if let Some(problem) = llava_adapter(setting, path, beside.as_ref(), path.join(LLAVA_NON_LORA).is_file()) {
            return Err(EngineError::Run(vec![problem]));
        }
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
    pub(crate) fn read(
        &self,
        table: &ModelTable,
        specs: &[ParamSpec],
        wanted: &dyn Fn(&ParamSpec) -> bool,
        finetune: &Finetune,
        placement: Placement,
    ) -> Result<Values> {
        let file = AdapterFile::open(&self.path)?;
        let mut names = Names::new();
        let mut problems = Vec::new();
        let mut saved = Vec::new();
        for (key, shape) in file.tensors() {
            let Some(name) = key.strip_prefix(PREFIX).and_then(|name| table.canonical_name(own_name(name))) else {
                problems.push(format!("`{key}` is not a tensor of an adapter of a LLaVA model"));
                continue;
            };
            match specs.iter().find(|spec| spec.name == name) {
                // PEFT saves a module as a whole: a layer that never runs has the base's values.
                Some(spec) if !spec.used && saves_module(&self.config.modules_to_save, &spec.name) => continue,
                // A checkpoint holds trained parameters only: a frozen parameter that differs from the base would be lost.
                Some(spec) if !is_trainable(spec, finetune) => {
                    problems.push(format!(
                        "`{key}` was trained, but this run freezes it{}",
                        unfreeze_hint(spec, finetune)
                    ));
                    continue;
                }
                Some(spec) if spec.part != Part::Adapter => saved.push(spec.clone()),
                _ => {}
            }
            match names.entry(name) {
                Entry::Occupied(first) => problems.push(format!("`{key}` is a second tensor for `{}`", first.key())),
                Entry::Vacant(free) => drop(free.insert((0, key, shape))),
            }
        }
        self.check_run(table, specs, finetune, &names)?;
        // PEFT also adapts linears that never run. Other programs leave them out.
        let needed = |spec: &&ParamSpec| spec.part == Part::Adapter && (spec.used || names.contains_key(&spec.name));
        let expected: Vec<_> = specs.iter().filter(needed).cloned().chain(saved).collect();
        problems.extend(mismatches(&names, &expected));
        // The advice comes first, since the end of a long list is not shown.
        if let Some(reason) = of_another_model(specs, &names).filter(|_| !problems.is_empty()) {
            problems.insert(0, reason);
        } else if !problems.is_empty() && has_other_targets(specs, &names) {
            let advice = format!(
                "the run has adapters on other modules than the folder: {}",
                set_targets(specs, &names)
            );
            problems.insert(0, advice);
        }
        let path = file.path().to_owned();
        if !problems.is_empty() {
            return Err(EngineError::Weights { path, problems });
        }
        let read = |spec: &ParamSpec| {
            let (_, key, _) = &names[&spec.name];
            Ok((
                spec.name.clone(),
                placement.local_shard(spec, |window| file.read_window(key, window))?,
            ))
        };
        all_finite(&path, expected.iter().filter(|spec| wanted(spec)).map(read))
    }
}

/// Returns the name of a tensor without the end that some versions of PEFT give to a magnitude.
fn own_name(name: &str) -> &str {
    match name.strip_suffix(".weight") {
        Some(magnitude) if magnitude.ends_with(MAGNITUDE) => magnitude,
        _ => name,
    }
}
