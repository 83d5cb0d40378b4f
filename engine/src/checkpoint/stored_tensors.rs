//! Reads the tensors of a checkpoint. A tensor is stored as one or several shards, each a rectangle in one file.
//!
//! A single writer stores whole tensors in `model.safetensors` and `optimizer.safetensors`; their headers are the index.
//! Several writers store numbered files and the index `pieces.json`, which lists the files of each tensor.

use super::extent::Extent;
use super::json::read_json;
use super::safetensors_file::TensorFile;
use crate::error::{EngineError, Result};
use neva_layout::Window;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tch::{Device, Tensor};

/// File name of the index.
pub(super) const PIECES: &str = "pieces.json";

/// `pieces.json`: the shards of a checkpoint's tensors, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Index {
    /// Trained parameters.
    pub(super) model: Stored,
    /// `NAME.<moment>`, `NAME.step`.
    pub(super) optimizer: Stored,
}

/// Stored tensors by name.
pub(super) type Stored = BTreeMap<String, StoredTensor>;

/// A tensor and its shards, which together hold each of its values once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StoredTensor {
    /// Shape of the whole tensor.
    pub(super) shape: Vec<usize>,
    /// The shards.
    #[serde(rename = "pieces")]
    pub(super) shards: Vec<StoredShard>,
}

/// A rectangle of a tensor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StoredShard {
    /// The file's name.
    pub(super) file: String,
    /// The tensor's name in the file.
    pub(super) key: String,
    /// Its rectangle of the whole tensor.
    pub(super) window: Window,
}

impl Index {
    /// Adds the shards that another rank wrote.
    pub(super) fn append(&mut self, other: Self) {
        for (own, theirs) in [(&mut self.model, other.model), (&mut self.optimizer, other.optimizer)] {
            for (name, mut tensor) in theirs {
                match own.entry(name) {
                    Entry::Vacant(free) => drop(free.insert(tensor)),
                    Entry::Occupied(mut known) => known.get_mut().shards.append(&mut tensor.shards),
                }
            }
        }
    }
}

/// The model's or the optimizer's tensors of a checkpoint. Files are opened on demand.
#[derive(Debug)]
pub struct StoredTensors {
    folder: PathBuf,
    /// The file that messages name.
    path: PathBuf,
    stored: Stored,
    files: Mutex<BTreeMap<String, Arc<TensorFile>>>,
}

impl StoredTensors {
    /// Opens the trained parameters of the checkpoint in `folder`.
    pub(super) fn model(folder: &Path) -> Result<Self> {
        Self::open(folder, "model.safetensors", |index| index.model)
    }

    /// Opens the moments and step counts of the checkpoint in `folder`.
    pub(super) fn optimizer(folder: &Path) -> Result<Self> {
        Self::open(folder, "optimizer.safetensors", |index| index.optimizer)
    }

    fn open(folder: &Path, single: &str, select: fn(Index) -> Stored) -> Result<Self> {
        let index = folder.join(PIECES);
        if index.is_file() {
            return Ok(Self {
                folder: folder.to_owned(),
                stored: select(read_json(&index)?),
                path: index,
                files: Mutex::default(),
            });
        }
        let path = folder.join(single);
        let file = TensorFile::open(&path)?;
        let whole = |(name, shape): (String, Vec<usize>)| {
            let shard = StoredShard {
                file: single.to_owned(),
                key: name.clone(),
                window: Window::whole(&shape),
            };
            let shards = vec![shard];
            (name, StoredTensor { shape, shards })
        };
        Ok(Self {
            folder: folder.to_owned(),
            stored: file.tensors().into_iter().map(whole).collect(),
            path,
            files: Mutex::new([(single.to_owned(), Arc::new(file))].into()),
        })
    }

    /// Returns the file that messages name.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the shape of a whole tensor, if it exists.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.stored.get(name).map(|tensor| tensor.shape.as_slice())
    }

    /// Iterates over the names and shapes of the whole tensors.
    pub fn shapes(&self) -> impl Iterator<Item = (&str, &[usize])> {
        self.stored.iter().map(|(name, tensor)| (name.as_str(), tensor.shape.as_slice()))
    }

    /// Reads a whole tensor in its own shape.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_whole(&self, name: &str) -> Result<Tensor> {
        let shape = self.shape(name).unwrap_or_default();
        let size: Vec<_> = shape.iter().map(|size| *size as i64).collect();
        Ok(self.read(name, &Window::whole(shape))?.f_view(size.as_slice())?)
    }

    /// Reads the rectangle `window` of a tensor, `[rows, columns]`, from the shards that hold it, in their kind.
    ///
    /// # Errors
    /// There is no such tensor, its shards do not cover the rectangle, or a file cannot be read.
    pub fn read(&self, name: &str, window: &Window) -> Result<Tensor> {
        let wrong = |reason: String| EngineError::Content {
            path: self.path.clone(),
            reason,
        };
        let tensor = self.stored.get(name).ok_or_else(|| wrong(format!("holds no tensor `{name}`")))?;
        let mut parts = Vec::new();
        for shard in &tensor.shards {
            let Some(common) = shard.window.overlap(window) else { continue };
            let part = self.file(&shard.file)?.read_window(&shard.key, &common.within(&shard.window))?;
            if common == *window {
                return Ok(part);
            }
            parts.push((common.within(window), part));
        }
        let found: usize = parts.iter().map(|(place, _)| place.numel()).sum();
        if found != window.numel() {
            return Err(wrong(format!(
                "the shards of `{name}` hold {found} of the {} values of {window:?}",
                window.numel()
            )));
        }
        let kind = parts.first().map_or(tch::Kind::Float, |(_, part)| part.kind());
        let whole = Tensor::f_empty(window.shape().map(|size| size as i64), (kind, Device::Cpu))?;
        for (place, part) in &parts {
            let rows = whole.narrow(0, place.rows.start as i64, place.rows.len() as i64);
            rows.narrow(1, place.columns.start as i64, place.columns.len() as i64)
                .f_copy_(part)?;
        }
        Ok(whole)
    }

    /// Returns where a tensor lies that one file holds as a whole.
    pub(crate) fn extent(&self, name: &str) -> Option<Extent> {
        let StoredTensor { shape, shards } = self.stored.get(name)?;
        let [shard] = &shards[..] else { return None };
        if shard.window != Window::whole(shape) {
            return None;
        }
        let extent = self.file(&shard.file).ok()?.extent(&shard.key)?;
        let fits = extent.bytes() as usize == shape.iter().product::<usize>() * extent.kind.elt_size_in_bytes();
        fits.then(|| Extent {
            shape: shape.clone(),
            ..extent
        })
    }

    fn file(&self, name: &str) -> Result<Arc<TensorFile>> {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = files.get(name) {
            return Ok(file.clone());
        }
        // The index is input: it must not name files outside of the folder.
        if name.contains(['/', '\\']) {
            return Err(EngineError::Content {
                path: self.path.clone(),
                reason: format!("{name:?} is not a file of the checkpoint"),
            });
        }
        let file = Arc::new(TensorFile::open(&self.folder.join(name))?);
        files.insert(name.to_owned(), file.clone());
        Ok(file)
    }
}
