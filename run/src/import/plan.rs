//! Plan of an import: the files to write, and what is known of the model.

use std::{path::PathBuf, rc::Rc};

use neva_layout::{Families, families::FolderModel};
use neva_schemas::Model;
use neva_weights::{Shard, Shards, TensorInfo};
use serde_json::Value;

use super::{ImportError, size_of, tensors::Tensors};
use crate::hub::INDEX;

/// Maximum size of a file of weights in bytes, as in transformers.
const SHARD: u64 = 5_000_000_000;

/// Files to write, and the model in them.
pub(super) struct Plan {
    /// The model as read from its config; `None` for a vision encoder alone.
    pub(super) read: Option<Model>,
    pub(super) kind: String,
    pub(super) model_type: String,
    pub(super) parameters: u64,
    pub(super) files: Vec<Planned>,
    /// The source can be used in its own place, although names differ.
    pub(super) usable_in_place: bool,
    pub(super) converted: Vec<String>,
    pub(super) warnings: Vec<String>,
}

/// A file to write.
pub(super) struct Planned {
    pub(super) name: String,
    pub(super) content: Content,
}

/// Content of a file.
pub(super) enum Content {
    /// A copy of another file.
    File(PathBuf),
    /// These bytes.
    Bytes(Vec<u8>),
    /// Tensors.
    Shard(Rc<Tensors>, Shard),
}

impl Plan {
    /// Creates the plan of a model, without files.
    pub(super) fn new(model: &FolderModel, config: &Value, warnings: Vec<String>) -> Result<Self, ImportError> {
        let count = |shape: &[usize]| shape.iter().map(|size| *size as u64).product::<u64>();
        let rows = model.parameters();
        let read = Families::builtin().read_config(config);
        Ok(Self {
            read: read.ok(),
            kind: model.kind().to_owned(),
            model_type: model.model_type.clone(),
            parameters: rows.iter().map(|row| count(&row.shape)).sum(),
            files: Vec::new(),
            usable_in_place: false,
            converted: Vec::new(),
            warnings,
        })
    }

    /// Adds a file with these bytes.
    pub(super) fn bytes_file(&mut self, name: &str, bytes: Vec<u8>) {
        let name = name.to_owned();
        let content = Content::Bytes(bytes);
        self.files.push(Planned { name, content });
    }

    /// Adds a copy of a file.
    pub(super) fn copy(&mut self, name: &str, from: PathBuf) {
        let name = name.to_owned();
        let content = Content::File(from);
        self.files.push(Planned { name, content });
    }

    /// Adds the files of tensors, and their index.
    pub(super) fn tensors(&mut self, tensors: Tensors) {
        let infos: Vec<TensorInfo> = tensors.wanted.iter().map(|wanted| wanted.info.clone()).collect();
        let Shards { shards, index } = Shards::plan(&infos, SHARD);
        let tensors = Rc::new(tensors);
        for shard in shards {
            let name = shard.name.clone();
            let content = Content::Shard(Rc::clone(&tensors), shard);
            self.files.push(Planned { name, content });
        }
        if let Some(index) = index {
            self.bytes_file(INDEX, index.into_bytes());
        }
    }

    /// Returns the size of all files in bytes.
    pub(super) fn bytes(&self) -> Result<u64, ImportError> {
        self.files.iter().map(Planned::len_bytes).sum()
    }
}

impl Planned {
    /// Returns the size of the file in bytes.
    pub(super) fn len_bytes(&self) -> Result<u64, ImportError> {
        match &self.content {
            Content::File(path) => size_of(path),
            Content::Bytes(bytes) => Ok(bytes.len() as u64),
            Content::Shard(_, shard) => Ok(shard.len_bytes()),
        }
    }
}
