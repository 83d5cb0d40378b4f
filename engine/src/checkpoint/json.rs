//! JSON files.

use crate::error::{EngineError, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::Path;

/// Reads a JSON file.
///
/// # Errors
/// It cannot be read, or has other content.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let bytes = std::fs::read(path).map_err(EngineError::io("read", path))?;
    serde_json::from_slice(&bytes).map_err(|error| EngineError::Content {
        path: path.to_owned(),
        reason: error.to_string(),
    })
}

/// A value as readable JSON.
pub(super) fn json(value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec_pretty(value).map_err(|error| EngineError::Bug(format!("cannot be written as JSON: {error}")))
}
