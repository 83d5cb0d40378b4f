//! Import of a model: it is checked and added to the model cache, as `nemo://ORG/NAME`.
//!
//! All naming layouts of Hugging Face folders can be read, so only the needed files are copied, without conversion.

mod check;
mod error;
mod header;
mod target;

use std::path::{Path, PathBuf};

use neva_layout::{HubAddress, ModelCache};
use serde::Serialize;

pub use self::error::ImportError;
use self::target::Target;
use crate::{
    environment,
    hub::{Hub, HubError, HubSettings, Notice, Requested},
};

/// Arguments of an import.
#[derive(Debug, Clone, Default)]
pub(crate) struct Import {
    /// `hf://ORG/NAME[@REVISION]` or a folder.
    pub(crate) source: String,
    /// The target folder, instead of one in the model cache.
    pub(crate) out: Option<PathBuf>,
    /// Replaces another model of this name.
    pub(crate) overwrite: bool,
}

/// An imported model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Imported {
    /// Its source.
    pub source: String,
    /// Its folder.
    pub path: PathBuf,
    /// Its address in the model cache.
    pub address: Option<String>,
    /// `model`, `language model` or `vision encoder`.
    pub kind: String,
    /// `model_type` of its config.
    pub model_type: String,
    /// Number of parameters.
    pub parameters: u64,
    /// Size of its files in bytes.
    pub bytes: u64,
    /// It already existed.
    pub reused: bool,
    /// Settings of its files that are not applied, and tensors that are ignored.
    pub warnings: Vec<String>,
}

impl Import {
    /// Downloads the model if needed, checks it and copies it.
    ///
    /// # Errors
    /// It cannot be downloaded, is not complete, or the target is another model. The target does not change.
    pub(crate) fn run(&self, notice: Notice<'_>) -> Result<Imported, ImportError> {
        let source = self.source.as_str();
        let cache = ModelCache::locate(environment::variable);
        let address = HubAddress::of(source).transpose().map_err(HubError::from)?;
        let (folder, name) = match &address {
            Some(address) => {
                let settings = HubSettings::read(environment::variable)?;
                let folder = Hub::new(settings).fetch(address, Requested::Model, notice)?;
                (folder, Some(PathBuf::from(&address.repository)))
            }
            None => {
                let folder = environment::expand_home(&cache.path_of(source));
                let name = std::path::absolute(&folder)
                    .ok()
                    .and_then(|path| path.file_name().map(PathBuf::from));
                (folder, name)
            }
        };
        if !folder.is_dir() {
            return Err(ImportError::NoFolder { path: folder });
        }
        let checked = check::folder(&folder)?;
        let path = match (&self.out, &name) {
            (Some(out), _) => environment::expand_home(out),
            (None, Some(name)) => cache.path.join(name),
            (None, None) => return Err(ImportError::NoName { path: folder }),
        };
        let target = Target {
            path: std::path::absolute(&path).map_err(|source| ImportError::io("find", &path, source))?,
            source: &folder,
            is_hub: address.is_some(),
        };
        let reused = target.put(&checked.files, self.overwrite)?;
        let in_cache = target
            .path
            .strip_prefix(&cache.path)
            .ok()
            .filter(|rest| rest.components().count() > 0);
        let address = in_cache.map(|rest| format!("nemo://{}", rest.display()));
        Ok(Imported {
            source: source.to_owned(),
            address,
            kind: checked.model.kind().to_owned(),
            model_type: checked.model.model_type.clone(),
            parameters: checked.parameters,
            bytes: checked.bytes,
            warnings: checked.warnings,
            reused,
            path: target.path,
        })
    }
}

/// Returns the size of a file in bytes.
fn size_of(path: &Path) -> Result<u64, ImportError> {
    let data = std::fs::metadata(path).map_err(|source| ImportError::io("read", path, source))?;
    Ok(data.len())
}
