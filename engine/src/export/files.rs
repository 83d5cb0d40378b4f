//! Small files of an export: JSON, and copies.

use crate::error::{EngineError, Result};
use serde::Serialize;
use serde_json::Value;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;

/// Reads a JSON file.
pub(super) fn read_json(path: &Path) -> Result<Value> {
    let bytes = std::fs::read(path).map_err(EngineError::io("read", path))?;
    serde_json::from_slice(&bytes).map_err(|error| EngineError::Content {
        path: path.to_owned(),
        reason: error.to_string(),
    })
}

/// Writes a value as readable JSON, with a line break at its end as transformers does.
pub(super) fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let mut bytes = serde_json::to_vec_pretty(value).map_err(|error| EngineError::Bug(format!("cannot be written as JSON: {error}")))?;
    bytes.push(b'\n');
    write(path, &bytes)
}

/// Writes a file and waits until it is on disk.
pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || {
        let mut file = File::create(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(EngineError::io("write", path))
}

/// Copies a file into a folder, under its own name.
pub(super) fn copy(from: &Path, folder: &Path) -> Result<()> {
    let bytes = std::fs::read(from).map_err(EngineError::io("read", from))?;
    write(&folder.join(from.file_name().unwrap_or_default()), &bytes)
}
