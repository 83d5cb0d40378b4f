//! Writes a safetensors file: writes a temporary file, syncs and renames it.

use super::safetensors_file::KINDS;
use super::stored_values::StoredValues;
use crate::error::{EngineError, Result};
use safetensors::tensor::{Dtype, View};
use std::borrow::Cow;
use std::fs::File;
use std::path::Path;
use tch::{Kind, Tensor};

/// Writes tensors from any device to `path`. The file appears only when it is complete and on disk.
///
/// # Errors
/// The disk is full, or the folder cannot be written.
pub fn write_tensors(path: &Path, tensors: Vec<(String, Tensor)>) -> Result<()> {
    let values = tensors
        .into_iter()
        .map(|(name, tensor)| (name, StoredValues::Tensor(tensor.detach())));
    write_values(path, values.collect())
}

/// Writes values as [`write_tensors`] does.
pub(super) fn write_values(path: &Path, tensors: Vec<(String, StoredValues)>) -> Result<()> {
    let temporary = path.with_extension("writing");
    let views = tensors
        .into_iter()
        .map(|(name, values)| Ok((name, Bytes::new(values)?)))
        .collect::<Result<Vec<_>>>()?;
    // The crate creates files that only their owner can read. A checkpoint is as readable as other files.
    let permissions = File::create(&temporary)
        .and_then(|file| file.metadata())
        .map_err(EngineError::io("write", path))?
        .permissions();
    let written = safetensors::serialize_to_file(views, None, &temporary)
        .map_err(|error| match error {
            safetensors::SafeTensorError::IoError(source) => EngineError::Io {
                action: "write",
                path: path.to_owned(),
                source,
            },
            other => EngineError::Content {
                path: path.to_owned(),
                reason: other.to_string(),
            },
        })
        .and_then(|()| {
            File::open(&temporary)
                .and_then(|file| file.sync_all())
                .map_err(EngineError::io("write", path))
        })
        .and_then(|()| std::fs::set_permissions(&temporary, permissions).map_err(EngineError::io("write", path)))
        .and_then(|()| std::fs::rename(&temporary, path).map_err(EngineError::io("write", path)));
    if written.is_err() {
        // The first error is the one to report.
        let _ = std::fs::remove_file(&temporary);
    }
    written
}

/// A tensor whose bytes are copied to the host only while they are written.
struct Bytes {
    values: StoredValues,
    shape: Vec<usize>,
    kind: Kind,
    dtype: Dtype,
}

impl Bytes {
    fn new(values: StoredValues) -> Result<Self> {
        let (size, kind) = values.layout();
        let shape = size.iter().map(|size| *size as usize).collect();
        let dtype = dtype_of(kind).ok_or_else(|| EngineError::Bug(format!("a tensor of kind {kind:?} cannot be saved")))?;
        Ok(Self {
            values,
            shape,
            kind,
            dtype,
        })
    }
}

impl View for Bytes {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Owned(self.values.bytes())
    }

    fn data_len(&self) -> usize {
        self.shape.iter().product::<usize>() * self.kind.elt_size_in_bytes()
    }
}

fn dtype_of(kind: Kind) -> Option<Dtype> {
    KINDS.iter().find(|(_, candidate)| *candidate == kind).map(|(dtype, _)| *dtype)
}
