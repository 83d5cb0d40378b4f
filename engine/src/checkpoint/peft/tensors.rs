//! The tensors of an adapter: a safetensors file, or a file of `torch.save`, which is read without executing anything.

use super::super::safetensors_file::TensorFile;
use crate::error::{EngineError, Result};
use neva_layout::Window;
use neva_weights::{WeightFile, WeightsError, read_pickle};
use std::collections::BTreeMap;
use std::path::Path;
use tch::Tensor;

const SAFETENSORS: &str = "adapter_model.safetensors";
const PICKLE: &str = "adapter_model.bin";

/// The file of an adapter's tensors.
#[derive(Debug)]
pub(super) enum AdapterFile {
    Safetensors(TensorFile),
    Pickle(WeightFile),
}

impl AdapterFile {
    /// Opens the file in `folder`: the safetensors if there are both.
    pub(super) fn open(folder: &Path) -> Result<Self> {
        let (safetensors, pickle) = (folder.join(SAFETENSORS), folder.join(PICKLE));
        if pickle.is_file() && !safetensors.is_file() {
            return read_pickle(&pickle).map(Self::Pickle).map_err(|error| content(&pickle, &error));
        }
        TensorFile::open(&safetensors).map(Self::Safetensors)
    }

    /// Returns the path of the file.
    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Safetensors(file) => file.path(),
            Self::Pickle(file) => file.path(),
        }
    }

    /// Returns the shapes of its tensors, by name.
    pub(super) fn tensors(&self) -> BTreeMap<String, Vec<usize>> {
        match self {
            Self::Safetensors(file) => file.tensors(),
            Self::Pickle(file) => {
                let tensors = file.tensors().iter().map(|tensor| &tensor.info);
                tensors.map(|info| (info.name.clone(), info.shape.clone())).collect()
            }
        }
    }

    /// Reads a rectangle of a tensor.
    pub(super) fn read_window(&self, name: &str, window: &Window) -> Result<Tensor> {
        let file = match self {
            Self::Safetensors(file) => return file.read_window(name, window),
            Self::Pickle(file) => file,
        };
        let tensor = file.tensor(name).ok_or_else(|| EngineError::Bug(format!("no tensor `{name}`")))?;
        let values = file.read_f32(tensor).map_err(|error| content(file.path(), &error))?;
        let whole = Window::whole(&tensor.info.shape);
        let matrix = Tensor::f_from_slice(&values)?.f_view([whole.rows.len() as i64, whole.columns.len() as i64])?;
        let rows = matrix.f_narrow(0, window.rows.start as i64, window.rows.len() as i64)?;
        Ok(rows
            .f_narrow(1, window.columns.start as i64, window.columns.len() as i64)?
            .f_contiguous()?)
    }
}

fn content(path: &Path, error: &WeightsError) -> EngineError {
    EngineError::Content {
        path: path.to_owned(),
        reason: error.to_string(),
    }
}
