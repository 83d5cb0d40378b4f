//! The files of a Hugging Face folder of a whole model.

use super::extent::Extent;
use super::hugging_face::hugging_face_files;
use super::placement::{Names, Placement, Values, mismatches, read_named};
use super::safetensors_file::TensorFile;
use crate::error::{EngineError, Result};
use neva_layout::{ModelTable, ParamSpec};
use std::path::{Path, PathBuf};

/// The files of a Hugging Face folder of the whole model.
#[derive(Debug)]
pub(crate) struct ModelFiles {
    folder: PathBuf,
    files: Vec<TensorFile>,
    names: Names,
}

impl ModelFiles {
    /// Opens a folder, which must hold all of `specs`: in one file or several with an index, under any accepted spelling of
    /// the names. Tensors that are not part of the model are skipped, with a warning.
    pub(super) fn open(table: &ModelTable, folder: &Path, specs: &[ParamSpec], warns: bool) -> Result<Self> {
        let files = hugging_face_files(folder)?
            .iter()
            .map(|path| TensorFile::open(path))
            .collect::<Result<Vec<_>>>()?;
        let mut names = Names::new();
        let (mut problems, mut skipped) = (Vec::new(), Vec::new());
        for (index, file) in files.iter().enumerate() {
            for (name, shape) in file.tensors() {
                if table.is_derived(&name) {
                    continue;
                }
                match table.canonical_name(&name) {
                    // Some files hold a tied head nevertheless.
                    Some(canonical) if table.is_tied_head(&canonical) => {}
                    Some(canonical) if !names.contains_key(&canonical) => {
                        names.insert(canonical, (index, name, shape));
                    }
                    Some(canonical) => problems.push(format!("`{name}` is a second tensor for `{canonical}`")),
                    None => skipped.push(format!("`{name}`")),
                }
            }
        }
        let mismatches = mismatches(&names, specs);
        if problems.is_empty() && mismatches.is_empty() {
            if warns && !skipped.is_empty() {
                tracing::warn!(
                    "{}: skipped tensors that are not part of the model: {}",
                    folder.display(),
                    skipped.join(", ")
                );
            }
            let folder = folder.to_owned();
            return Ok(Self { folder, files, names });
        }
        problems.extend(skipped.iter().map(|name| format!("{name} is not a tensor of the model")));
        problems.extend(mismatches);
        Err(EngineError::Weights {
            path: folder.to_owned(),
            problems,
        })
    }

    /// Returns where a parameter lies.
    pub(super) fn extent(&self, spec: &ParamSpec) -> Option<Extent> {
        let (index, name, _) = self.names.get(&spec.name)?;
        self.files[*index].extent(name)
    }

    /// Reads this rank's local shards of `wanted`.
    pub(super) fn read(&self, wanted: &[ParamSpec], placement: Placement) -> Result<Values> {
        read_named(&self.folder, &self.files, &self.names, wanted, placement)
    }
}
