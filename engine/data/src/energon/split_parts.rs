//! Splits of a prepared dataset: `split.yaml`.

use std::{collections::HashSet, path::Path};

use serde_json::Value;

use super::{
    braces,
    metadata::{Section, invalid, kind, read},
};
use crate::error::DataError;

/// The shards of one split, and the samples that are left out.
#[derive(Debug, Default)]
pub(super) struct SplitPart {
    /// Names of the shards, in order.
    pub(super) shards: Vec<String>,
    /// `SHARD/KEY` of each sample that is left out.
    pub(super) excluded: HashSet<String>,
}

/// Reads the split `part` from `folder`; the file is `config`, or `split.yaml` or `split.json`. `None`: the file has no such
/// split.
///
/// # Errors
/// The file is missing or invalid.
pub(super) fn read_split(folder: &Path, config: Option<&str>, part: &str) -> Result<Option<SplitPart>, DataError> {
    let name = config.unwrap_or("split.yaml");
    let mut path = folder.join(name);
    if config.is_none() && !path.exists() && folder.join("split.json").exists() {
        path = folder.join("split.json");
    }
    let value = read(&path)?;
    let file = Section::new(&path, "", &value)?;
    file.only(&["split_parts", "exclude"])?;
    let Some(parts) = file.get("split_parts") else {
        return Err(file.invalid(
            "split_parts",
            "is missing: write `split_parts: {train: [SHARD.tar], val: [], test: []}`",
        ));
    };
    let parts = Section::new(&path, "split_parts", parts)?;
    let Some(patterns) = parts.get(part) else { return Ok(None) };
    let excluded: HashSet<String> = match file.get("exclude") {
        None => HashSet::new(),
        Some(list) => names(&path, "exclude", list)?.into_iter().collect(),
    };
    let mut shards = names(&path, &parts.field(part), patterns)?;
    shards.retain(|shard| !excluded.contains(shard));
    let mut seen = HashSet::new();
    if let Some(twice) = shards.iter().find(|shard| !seen.insert(shard.as_str())) {
        return Err(parts.invalid(part, format!("names {twice} twice: name each shard once")));
    }
    Ok(Some(SplitPart {
        shards,
        excluded: excluded.into_iter().filter(|name| name.contains('/')).collect(),
    }))
}

/// Returns the names in a list of patterns.
fn names(path: &Path, field: &str, list: &Value) -> Result<Vec<String>, DataError> {
    let Value::Array(list) = list else {
        return Err(invalid(path, field, format!("must be a list of shards, found {}", kind(list))));
    };
    let mut names = Vec::new();
    for (index, item) in list.iter().enumerate() {
        let field = format!("{field}[{index}]");
        let Some(pattern) = item.as_str() else {
            return Err(invalid(path, &field, format!("must be the name of a shard, found {}", kind(item))));
        };
        if pattern.starts_with('/') || pattern.split('/').any(|part| part == "..") {
            return Err(invalid(
                path,
                &field,
                format!("`{pattern}` leaves the folder of the dataset: name shards within it"),
            ));
        }
        names.extend(braces::expand(pattern).map_err(|reason| invalid(path, &field, format!("`{pattern}` {reason}")))?);
    }
    Ok(names)
}
