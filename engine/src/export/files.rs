//! Small files of an export: JSON, and copies.

use crate::checkpoint::write_file;
use crate::error::{EngineError, Result};
use serde::Serialize;
use std::path::Path;

/// Writes a value as readable JSON, with a line break at its end as transformers does.
pub(super) fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let mut bytes = serde_json::to_vec_pretty(value).map_err(|error| EngineError::Bug(format!("cannot be written as JSON: {error}")))?;
    bytes.push(b'\n');
    write_file(path, &bytes)
}

/// Copies a file into a folder, under its own name.
pub(super) fn copy(from: &Path, folder: &Path) -> Result<()> {
    let bytes = std::fs::read(from).map_err(EngineError::io("read", from))?;
    write_file(&folder.join(from.file_name().unwrap_or_default()), &bytes)
}
