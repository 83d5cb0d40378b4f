//! Adapters of the original LLaVA repository, which are peft's, for the names of LLaVA's own model.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use neva_layout::families::original_adapter_name;
use neva_weights::WeightFile;
use serde_json::Value;

use crate::{
    hub::{ADAPTER_CONFIG, ADAPTERS},
    import::{ImportError, tensors::At, weights::more},
};

/// The adapters of a checkpoint.
pub(super) struct Adapter {
    /// A and B by the name of the linear's weight in the hub's files.
    linears: BTreeMap<String, [Option<At>; 2]>,
    scale: f32,
}

impl Adapter {
    /// Returns the file of adapters in a folder.
    pub(super) fn file_in(folder: &Path) -> Option<PathBuf> {
        ADAPTERS.iter().map(|name| folder.join(name)).find(|path| path.is_file())
    }

    /// Returns the model that the adapters were trained over.
    pub(super) fn base_of(folder: &Path) -> Result<Option<String>, ImportError> {
        let config = config(folder)?;
        Ok(config.get("base_model_name_or_path").and_then(Value::as_str).map(str::to_owned))
    }

    /// Opens the file of adapters, which is file `index` of the plan.
    pub(super) fn open(folder: &Path, path: &Path, index: usize) -> Result<(Self, WeightFile), ImportError> {
        let config = config(folder)?;
        let (file, mut problems) = (WeightFile::open(path)?, Vec::new());
        let number = |name: &str| config.get(name).and_then(Value::as_f64).filter(|value| *value > 0.0);
        let is_on = |name: &str| config.get(name) == Some(&Value::Bool(true));
        for name in ["use_dora", "fan_in_fan_out"] {
            if is_on(name) {
                problems.push(format!("`{name}` is true in {ADAPTER_CONFIG}, which is not merged"));
            }
        }
        for name in ["rank_pattern", "alpha_pattern"] {
            if config
                .get(name)
                .and_then(Value::as_object)
                .is_some_and(|pattern| !pattern.is_empty())
            {
                problems.push(format!("`{name}` in {ADAPTER_CONFIG} is not merged"));
            }
        }
        let (Some(rank), Some(alpha)) = (number("r"), number("lora_alpha")) else {
            return Err(ImportError::content(
                &folder.join(ADAPTER_CONFIG),
                "it has no `r` or no `lora_alpha`",
            ));
        };
        let divisor = if is_on("use_rslora") { rank.sqrt() } else { rank };
        let (mut linears, mut others) = (BTreeMap::<String, [Option<At>; 2]>::new(), Vec::new());
        for (tensor, stored) in file.tensors().iter().enumerate() {
            match original_adapter_name(&stored.info.name) {
                Some((linear, is_b)) => {
                    let at = At { file: index, tensor };
                    linears.entry(linear).or_default()[usize::from(is_b)] = Some(at);
                }
                None => others.push(stored.info.name.clone()),
            }
        }
        if let Some((first, rest)) = others.split_first() {
            problems.push(format!("`{first}`{} are no adapters of LoRA", more(rest.len())));
        }
        let halves = linears.iter().filter(|(_, halves)| halves.iter().any(Option::is_none));
        problems.extend(halves.map(|(name, _)| format!("the adapter of `{name}` lacks A or B")));
        if !problems.is_empty() {
            return Err(ImportError::Content {
                path: path.to_owned(),
                problems,
                help: Some("merge it with the original repository's merge_lora_weights.py, and import the result".to_owned()),
            });
        }
        let scale = (alpha / divisor) as f32;
        Ok((Self { linears, scale }, file))
    }

    /// Returns A, B and the scale of a linear.
    pub(super) fn of(&self, name: &str) -> Option<(At, At, f32)> {
        match self.linears.get(name)? {
            [Some(a), Some(b)] => Some((*a, *b, self.scale)),
            _ => None,
        }
    }

    /// Returns the names of the adapted linears.
    pub(super) fn linears(&self) -> impl Iterator<Item = &String> {
        self.linears.keys()
    }
}

fn config(folder: &Path) -> Result<Value, ImportError> {
    let path = folder.join(ADAPTER_CONFIG);
    let text = std::fs::read(&path).map_err(|source| ImportError::io("read", &path, source))?;
    serde_json::from_slice(&text).map_err(|error| ImportError::content(&path, format!("not JSON: {error}")))
}
