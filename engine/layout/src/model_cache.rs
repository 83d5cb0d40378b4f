//! Folders of the models that a run names by an address: `nemo://` and `hf://`.

use crate::hub_cache::{HubAddress, HubCache};
use neva_schemas::{Data, Problem, env};
use std::path::{Path, PathBuf};

/// The folder of imported models, and the cache of the Hugging Face hub. NeMo's documents promise `NEMO_CACHE_DIR`, its
/// code reads `NEMO_MODELS_CACHE` and `NEMO_HOME`; all three work here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelCache {
    /// The folder of imported models.
    pub path: PathBuf,
    /// The cache of the hub.
    pub hub: HubCache,
}

impl ModelCache {
    /// Finds the folders; `lookup` returns environment variables.
    pub fn locate(lookup: impl Fn(&str) -> Option<String>) -> Self {
        let set = |name: &str| lookup(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let path = set(env::NEMO_MODELS_CACHE)
            .or_else(|| Some(set(env::NEMO_CACHE_DIR)?.join("models")))
            .or_else(|| Some(set(env::NEMO_HOME)?.join("models")))
            .unwrap_or_else(|| set(env::HOME).unwrap_or_default().join(".cache/nemo/models"));
        let hub = HubCache::locate(lookup);
        Self { path, hub }
    }

    /// Creates a cache of imported models at `path`, without a cache of the hub.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            hub: HubCache::default(),
        }
    }

    /// Returns the path of an address: `nemo://ORG/NAME` in the folder of imported models, `hf://ORG/NAME` in the hub's cache
    /// or else in the folder of imported models. Another address is a path itself.
    pub fn path_of(&self, address: &str) -> PathBuf {
        if let Some(id) = address.strip_prefix("nemo://") {
            return self.path.join(id);
        }
        match HubAddress::of(address) {
            Some(Ok(hub)) => self.hub.path_of(&hub, &self.path.join(&hub.repository)),
            // `hf:///PATH` is a path, as in NeMo.
            None => PathBuf::from(address.strip_prefix("hf://").unwrap_or(address)),
            Some(Err(_)) => PathBuf::from(address),
        }
    }

    /// Returns `data` with the paths of tokenizer and image processor instead of their addresses.
    #[must_use]
    pub fn with_paths(&self, data: &Data) -> Data {
        let mut changed = data.clone();
        let Some((tokenizer, image_processor)) = changed.tools_mut() else {
            return changed;
        };
        if let Some(tokenizer) = tokenizer.as_mut().filter(|text| is_model_address(text)) {
            *tokenizer = self.path_of(tokenizer).display().to_string();
        }
        let processor = image_processor.as_ref().and_then(|path| path.to_str());
        if let Some(address) = processor.filter(|text| is_model_address(text)) {
            *image_processor = Some(self.path_of(address));
        }
        changed
    }
}

/// Returns whether the text of a setting is the address of a model, not a path.
pub fn is_model_address(text: &str) -> bool {
    text.starts_with("nemo://") || text.starts_with("hf://")
}

/// Returns the problem of a run whose `setting` names the model `address`, with the path `path` that is no folder.
pub fn missing_model(setting: &str, address: &str, path: &Path) -> Problem {
    let problem = Problem::error(setting, format!("there is no model in {}", path.display()));
    if let Some(Err(error)) = HubAddress::of(address) {
        return Problem::error(setting, error.to_string());
    }
    if HubAddress::of(address).is_some() {
        return problem.help(format!("download it on this machine: neva-run import {address}"));
    }
    if let Some(id) = address.strip_prefix("nemo://") {
        let fetch = match id.parse::<HubAddress>() {
            Ok(hub) => format!("download it with `neva-run import {hub}`, "),
            Err(_) => String::new(),
        };
        problem.help(format!(
            "{fetch}put the Hugging Face folder (config.json, *.safetensors, tokenizer.json) there, or name a local folder: \
             --set {setting}=DIR"
        ))
    } else {
        problem.help("name a folder with config.json and *.safetensors, or a checkpoint of this program")
    }
}

/// Returns the problem of a run that restores the checkpoint at `path`, which holds adapters instead of a whole model.
pub fn adapter_as_base(path: &Path) -> Problem {
    let path = path.display();
    Problem::error(
        "finetune.resume.restore_config.path",
        format!("the checkpoint in {path} holds LoRA adapters, which would be lost: `restore_config` takes a whole model"),
    )
    .help(format!(
        "use `adapter_path`: --set '~finetune.resume.restore_config' --set finetune.resume.adapter_path={path}; or merge \
         it into a model: neva-run export {path} --output DIR"
    ))
}
