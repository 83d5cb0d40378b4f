//! Where each tensor of a checkpoint lies: in pieces, each a rectangle in one of its files.
//!
//! A checkpoint of one writer has whole tensors in `model.safetensors` and `optimizer.safetensors`, whose headers say
//! it all. That of several has a numbered file of each and `pieces.json`, from which a reader knows which files to open.

use super::folder::read_json;
use super::safetensors_file::TensorFile;
use crate::error::{EngineError, Result};
use neva_layout::Window;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tch::{Device, Tensor};

/// File that says where each tensor lies.
pub(super) const PIECES: &str = "pieces.json";

/// `pieces.json`: the tensors of a checkpoint by their names, whole or in pieces.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Index {
    /// Trained parameters.
    pub(super) model: Stored,
    /// `NAME.<moment>`, `NAME.step`.
    pub(super) optimizer: Stored,
}

/// StoredTensors by name.
pub(super) type Stored = BTreeMap<String, StoredTensor>;

/// A tensor and its pieces, which together hold each of its values once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StoredTensor {
    /// Shape of the whole tensor.
    pub(super) shape: Vec<usize>,
    /// The pieces.
    pub(super) pieces: Vec<StoredPiece>,
}

/// A rectangle of a tensor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StoredPiece {
    /// The file's name.
    pub(super) file: String,
    /// The tensor's name in the file.
    pub(super) key: String,
    /// Which rectangle of the whole tensor it is.
    pub(super) window: Window,
}

impl Index {
    /// Adds the pieces that another rank wrote.
    pub(super) fn append(&mut self, other: Self) {
        for (own, theirs) in [(&mut self.model, other.model), (&mut self.optimizer, other.optimizer)] {
            for (name, mut tensor) in theirs {
                match own.entry(name) {
                    Entry::Vacant(free) => drop(free.insert(tensor)),
                    Entry::Occupied(mut known) => known.get_mut().pieces.append(&mut tensor.pieces),
                }
            }
        }
    }
}

/// One of the two sets of tensors of a checkpoint, opened for reading. Files are opened as they are needed.
#[derive(Debug)]
pub struct StoredTensors {
    folder: PathBuf,
    /// What messages name.
    path: PathBuf,
    stored: Stored,
    files: Mutex<BTreeMap<String, Arc<TensorFile>>>,
}

impl StoredTensors {
    /// Trained parameters of the checkpoint in `folder`.
    pub(super) fn model(folder: &Path) -> Result<Self> {
        Self::open(folder, "model.safetensors", |index| index.model)
    }

    /// Moments and step counts of the checkpoint in `folder`.
    pub(super) fn optimizer(folder: &Path) -> Result<Self> {
        Self::open(folder, "optimizer.safetensors", |index| index.optimizer)
    }

    fn open(folder: &Path, single: &str, part: fn(Index) -> Stored) -> Result<Self> {
        let index = folder.join(PIECES);
        if index.is_file() {
            return Ok(Self {
                folder: folder.to_owned(),
                stored: part(read_json(&index)?),
                path: index,
                files: Mutex::default(),
            });
        }
        let path = folder.join(single);
        let file = TensorFile::open(&path)?;
        let whole = |(name, shape): (String, Vec<usize>)| {
            let piece = StoredPiece {
                file: single.to_owned(),
                key: name.clone(),
                window: Window::whole(&shape),
            };
            let pieces = vec![piece];
            (name, StoredTensor { shape, pieces })
        };
        Ok(Self {
            folder: folder.to_owned(),
            stored: file.tensors().into_iter().map(whole).collect(),
            path,
            files: Mutex::new([(single.to_owned(), Arc::new(file))].into()),
        })
    }

    /// The file that a message names.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Shape of a whole tensor, where there is one of this name.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.stored.get(name).map(|tensor| tensor.shape.as_slice())
    }

    /// Names and shapes of the whole tensors.
    pub fn shapes(&self) -> impl Iterator<Item = (&str, &[usize])> {
        self.stored.iter().map(|(name, tensor)| (name.as_str(), tensor.shape.as_slice()))
    }

    /// A whole tensor in its own shape.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_whole(&self, name: &str) -> Result<Tensor> {
        let shape = self.shape(name).unwrap_or_default();
        let size: Vec<_> = shape.iter().map(|size| *size as i64).collect();
        Ok(self.read(name, &Window::whole(shape))?.f_view(size.as_slice())?)
    }

    /// The rectangle `window` of a tensor, `[rows, columns]`, out of whatever pieces hold it, in their kind.
    ///
    /// # Errors
    /// There is no such tensor, its pieces do not make up the rectangle, or a file cannot be read.
    pub fn read(&self, name: &str, window: &Window) -> Result<Tensor> {
        let wrong = |reason: String| EngineError::Content {
            path: self.path.clone(),
            reason,
        };
        let tensor = self.stored.get(name).ok_or_else(|| wrong(format!("holds no tensor `{name}`")))?;
        let mut parts = Vec::new();
        for piece in &tensor.pieces {
            let Some(common) = piece.window.overlap(window) else { continue };
            let part = self.file(&piece.file)?.read_window(&piece.key, &common.within(&piece.window))?;
            if common == *window {
                return Ok(part);
            }
            parts.push((common.within(window), part));
        }
        let found: usize = parts.iter().map(|(place, _)| place.numel()).sum();
        if found != window.numel() {
            return Err(wrong(format!(
                "the pieces of `{name}` hold {found} of the {} values of {window:?}",
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

    fn file(&self, name: &str) -> Result<Arc<TensorFile>> {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = files.get(name) {
            return Ok(file.clone());
        }
        // Written by ourselves, but a file is input: it names no file elsewhere.
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
