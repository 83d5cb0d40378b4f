//! Header of a safetensors file: names and shapes, checked against the size of the file.

use std::{fs::File, io::Read as _, path::Path};

use safetensors::tensor::Metadata;

use super::{error::ImportError, size_of};

/// Bytes before the header, which hold its length.
const PREFIX: u64 = 8;
/// Maximum length of a header in the format.
const LONGEST: u64 = 100_000_000;

/// Returns the name and the shape of each tensor of a file.
///
/// # Errors
/// The file cannot be read, has another format, or another size than its header says.
pub(super) fn tensors(path: &Path) -> Result<Vec<(String, Vec<usize>)>, ImportError> {
    let wrong = |reason: String| ImportError::Content {
        path: path.to_owned(),
        problems: vec![reason],
        help: Some("download or copy the file again".to_owned()),
    };
    let failed = |source| ImportError::io("read", path, source);
    let length = size_of(path)?;
    let mut file = File::open(path).map_err(failed)?;
    let mut prefix = [0; PREFIX as usize];
    file.read_exact(&mut prefix)
        .map_err(|_| wrong("truncated: it ends before its header".to_owned()))?;
    let header = u64::from_le_bytes(prefix);
    if header > length.saturating_sub(PREFIX) {
        return Err(wrong("truncated or not a safetensors file: it ends within its header".to_owned()));
    }
    if header > LONGEST {
        return Err(wrong(format!("its header has {header} bytes, but the limit is {LONGEST}")));
    }
    let mut buffer = vec![0; usize::try_from(header).unwrap_or_default()];
    file.read_exact(&mut buffer).map_err(failed)?;
    // The reader checks that the tensors are contiguous and have the size of their shapes.
    let metadata: Metadata = serde_json::from_slice(&buffer).map_err(|error| wrong(format!("not a safetensors file: {error}")))?;
    let expected = (PREFIX + header).saturating_add(metadata.data_len() as u64);
    if length != expected {
        let what = if length < expected { "truncated" } else { "too long" };
        return Err(wrong(format!("{what}: {length} bytes, but the header says {expected}")));
    }
    Ok(metadata
        .tensors()
        .into_iter()
        .map(|(name, info)| (name, info.shape.clone()))
        .collect())
}
