//! Where `nemo://` models lie.

use crate::error::{EngineError, Result};
use neva_schemas::{Problem, env};
use std::path::PathBuf;

/// The folder of imported models. NeMo's documents promise `NEMO_CACHE_DIR`, its code reads
/// `NEMO_MODELS_CACHE` and `NEMO_HOME`; all three work here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelCache {
    /// The folder.
    pub path: PathBuf,
}

impl ModelCache {
    /// Finds the folder through `lookup`, which answers for the environment.
    pub fn locate(lookup: impl Fn(&str) -> Option<String>) -> Self {
        let set = |name: &str| lookup(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let path = set(env::NEMO_MODELS_CACHE)
            .or_else(|| Some(set(env::NEMO_CACHE_DIR)?.join("models")))
            .or_else(|| Some(set(env::NEMO_HOME)?.join("models")))
            .unwrap_or_else(|| set(env::HOME).unwrap_or_default().join(".cache/nemo/models"));
        Self { path }
    }
}

/// The folder that `finetune.resume.restore_config.path` names.
///
/// # Errors
/// There is no such folder.
pub fn resolve_restore(address: &str, cache: &ModelCache) -> Result<PathBuf> {
    let path = match address.strip_prefix("nemo://") {
        Some(id) => cache.path.join(id),
        None => PathBuf::from(address),
    };
    if path.is_dir() {
        return Ok(path);
    }
    let problem = Problem::error(
        "finetune.resume.restore_config.path",
        format!("there is no model in {}", path.display()),
    );
    Err(EngineError::Run(vec![if address.starts_with("nemo://") {
        problem.help("put the Hugging Face folder (config.json, *.safetensors, tokenizer.json) there, or name a local folder: --set finetune.resume.restore_config.path=DIR")
    } else {
        problem.help("name a folder with config.json and *.safetensors, or a checkpoint of this program")
    }]))
}
