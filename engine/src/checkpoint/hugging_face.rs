//! A Hugging Face model folder: its safetensors files and its `config.json`.

use super::json::read_json;
use crate::error::{EngineError, Result};
use neva_layout::families::Families;
use neva_layout::{model_differences, unapplied_model_settings};
use neva_schemas::Model;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Lists the safetensors files of a folder.
pub(crate) fn hugging_face_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let single = folder.join("model.safetensors");
    if single.is_file() {
        return Ok(vec![single]);
    }
    let index = folder.join("model.safetensors.index.json");
    if !index.is_file() {
        let reason = "holds neither model.safetensors nor model.safetensors.index.json".into();
        return Err(EngineError::Content {
            path: folder.to_owned(),
            reason,
        });
    }
    let content: Value = read_json(&index)?;
    let map = content
        .get("weight_map")
        .and_then(Value::as_object)
        .ok_or_else(|| EngineError::Content {
            path: index.clone(),
            reason: "has no `weight_map`".into(),
        })?;
    let mut files: Vec<_> = map
        .values()
        .filter_map(Value::as_str)
        .filter(|name| !name.contains(['/', '\\']))
        .map(|name| folder.join(name))
        .collect();
    files.sort();
    files.dedup();
    Ok(files)
}

/// Checks that a folder's `config.json` describes the run's model. Lists every difference, which is clearer than a
/// hundred tensors of the wrong shape.
pub(super) fn check_config(folder: &Path, model: &Model, families: &Families) -> Result<()> {
    let path = folder.join("config.json");
    let content: Value = read_json(&path)?;
    let found = families.read_config(&content).map_err(|error| EngineError::Content {
        path: path.clone(),
        reason: error.to_string(),
    })?;
    for sentence in unapplied_model_settings(&content) {
        tracing::warn!("{}: {sentence}", path.display());
    }
    let problems = model_differences(&found, model, &path);
    if problems.is_empty() {
        Ok(())
    } else {
        Err(EngineError::Run(problems))
    }
}
