//! Resolves the folder that a run restores from.

use crate::error::{EngineError, Result};
use neva_layout::{ModelCache, missing_model};
use std::path::PathBuf;

/// Returns the folder that `finetune.resume.restore_config.path` names.
///
/// # Errors
/// There is no such folder.
pub fn resolve_restore(address: &str, cache: &ModelCache) -> Result<PathBuf> {
    resolve_model("finetune.resume.restore_config.path", address, cache)
}

/// Returns the folder of the model that `setting` names by a path or as `nemo://ORG/NAME`.
///
/// # Errors
/// There is no such folder.
pub(super) fn resolve_model(setting: &str, address: &str, cache: &ModelCache) -> Result<PathBuf> {
    let path = cache.path_of(address);
    if path.is_dir() {
        return Ok(path);
    }
    Err(EngineError::Run(vec![missing_model(setting, address, &path)]))
}
