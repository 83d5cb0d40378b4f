//! The tensors of an adapter.

use super::super::safetensors_file::TensorFile;
use crate::error::Result;
use neva_layout::Window;
use std::collections::BTreeMap;
use std::path::Path;
use tch::Tensor;

const SAFETENSORS: &str = "adapter_model.safetensors";

/// The file of an adapter's tensors.
#[derive(Debug)]
pub(super) enum AdapterFile {
    Safetensors(TensorFile),
}

impl AdapterFile {
    /// Opens the file in `folder`.
    pub(super) fn open(folder: &Path) -> Result<Self> {
        TensorFile::open(&folder.join(SAFETENSORS)).map(Self::Safetensors)
    }

    /// Returns the path of the file.
    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Safetensors(file) => file.path(),
        }
    }

    /// Returns the shapes of its tensors, by name.
    pub(super) fn tensors(&self) -> BTreeMap<String, Vec<usize>> {
        match self {
            Self::Safetensors(file) => file.tensors(),
        }
    }

    /// Reads a rectangle of a tensor.
    pub(super) fn read_window(&self, name: &str, window: &Window) -> Result<Tensor> {
        match self {
            Self::Safetensors(file) => file.read_window(name, window),
        }
    }
}
