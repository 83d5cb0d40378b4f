//! Reads small JSON files.

use std::{fs, path::Path};

use neva_schemas::Problem;
use serde::de::DeserializeOwned;

/// Reads the JSON file at `path`.
///
/// # Errors
/// It cannot be read or does not have this form; the problem's path is `setting`.
pub(super) fn read<T: DeserializeOwned>(path: &Path, setting: &str) -> Result<T, Problem> {
    let bytes = fs::read(path).map_err(|error| Problem::error(setting, format!("cannot read {}: {error}", path.display())))?;
    serde_json::from_slice(&bytes).map_err(|error| Problem::error(setting, format!("{}: {error}", path.display())))
}
