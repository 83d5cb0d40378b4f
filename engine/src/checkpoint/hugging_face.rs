//! A Hugging Face folder: its files, and what its `config.json` says.

use super::folder::read_json;
use crate::error::{EngineError, Result};
use neva_layout::from_hf_config;
use neva_schemas::{LlavaModel, Problem};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// The safetensors files of a folder.
pub(super) fn hugging_face_files(folder: &Path) -> Result<Vec<PathBuf>> {
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

/// A folder's `config.json` must describe the run's model; every difference is named, which says more than
/// a hundred misshapen tensors.
pub(super) fn check_config(folder: &Path, model: &LlavaModel) -> Result<()> {
    let path = folder.join("config.json");
    let content: Value = read_json(&path)?;
    let found = from_hf_config(&content).map_err(|error| EngineError::Content {
        path: path.clone(),
        reason: error.to_string(),
    })?;
    let as_json = |model: &LlavaModel| {
        // Written out or not, a head has one width.
        let mut model = model.clone();
        model.text_config.head_dim = Some(model.text_config.head_dim());
        serde_json::to_value(model).unwrap_or_default()
    };
    let (found, wanted) = (as_json(&found), as_json(model));
    let mut problems = Vec::new();
    differences("finetune.model", &found, &wanted, &path, &mut problems);
    if problems.is_empty() {
        Ok(())
    } else {
        Err(EngineError::Run(problems))
    }
}

/// Fields that change no value of the forward pass.
const FREE: &[&str] = &[
    "max_position_embeddings",
    "initializer_range",
    "freeze_language_model",
    "freeze_vision_model",
    "freeze_vision_projection",
];

fn differences(at: &str, found: &Value, wanted: &Value, path: &Path, problems: &mut Vec<Problem>) {
    let (Some(found), Some(wanted)) = (found.as_object(), wanted.as_object()) else {
        return;
    };
    for (name, value) in wanted.iter().filter(|(name, _)| !FREE.contains(&name.as_str())) {
        let at = format!("{at}.{name}");
        let other = found.get(name).unwrap_or(&Value::Null);
        if value.is_object() {
            differences(&at, other, value, path, problems);
        } else if other != value {
            let problem = Problem::error(&at, format!("`{name}` is {value}, but {} says {other}", path.display()));
            problems.push(problem.help(format!("--set {at}={other}")));
        }
    }
}
