//! Source of an import: a folder or a file of this machine, or files of the hub.

use std::path::{Path, PathBuf};

use neva_layout::{HubAddress, ModelCache};

use super::ImportError;
use crate::{
    environment,
    hub::{Hub, HubError, HubSettings, Notice, Requested},
};

/// A found source.
#[derive(Debug)]
pub(super) struct Found {
    /// The folder or the file.
    pub(super) path: PathBuf,
    /// The folder, or that of the file.
    pub(super) folder: PathBuf,
    /// The file, where the source is one.
    pub(super) file: Option<PathBuf>,
    /// Name of the model in the model cache.
    pub(super) name: Option<PathBuf>,
    /// The source is in the hub's cache.
    pub(super) is_hub: bool,
}

/// Finds sources, and downloads those of the hub.
pub(super) struct Sources<'a, 'b> {
    pub(super) cache: &'a ModelCache,
    pub(super) notice: Notice<'b>,
}

impl Sources<'_, '_> {
    /// Finds a source, and downloads it if it is one of the hub.
    pub(super) fn find(&mut self, source: &str) -> Result<Found, ImportError> {
        if let Some(address) = HubAddress::of(source).transpose().map_err(HubError::from)? {
            let folder = self.fetch(&address, Requested::Import)?;
            return Ok(Found {
                path: folder.clone(),
                file: only_gguf(&folder),
                folder,
                name: Some(PathBuf::from(&address.repository)),
                is_hub: true,
            });
        }
        let path = environment::expand_home(&self.cache.path_of(source));
        let absolute = std::path::absolute(&path).ok();
        let is_file = path.is_file();
        let name = absolute.and_then(|path| {
            let name = if is_file { path.file_stem() } else { path.file_name() };
            name.map(PathBuf::from)
        });
        let folder = if is_file {
            path.parent()
                .filter(|parent| !parent.as_os_str().is_empty())
                .unwrap_or(Path::new("."))
                .to_owned()
        } else {
            path.clone()
        };
        if !is_file && !path.is_dir() {
            return Err(ImportError::NoSource {
                path,
                meant: hub_address(source),
            });
        }
        Ok(Found {
            file: if is_file { Some(path.clone()) } else { only_gguf(&path) },
            folder,
            name,
            path,
            is_hub: false,
        })
    }

    /// Finds the folder of another model that a checkpoint in `folder` names: a path, a model of the cache, or one of the
    /// hub. `option` sets it, for messages.
    pub(super) fn part(&mut self, named: &str, folder: &Path, option: &'static str) -> Result<PathBuf, ImportError> {
        if let Some(path) = self.local_part(named, folder) {
            return Ok(path);
        }
        let missing = |help: String| ImportError::Content {
            path: folder.to_owned(),
            problems: vec![format!("it needs the model `{named}`, which is not on this machine")],
            help: Some(help),
        };
        let text = if named.starts_with("hf://") {
            named.to_owned()
        } else {
            format!("hf://{named}")
        };
        let Some(Ok(address)) = HubAddress::of(&text) else {
            return Err(missing(format!("name its folder, or hf://ORG/NAME: {option} DIR")));
        };
        self.fetch(&address, Requested::Import).map_err(|error| match error {
            ImportError::Hub(error) if matches!(error, HubError::Offline { .. } | HubError::NotFound { .. } | HubError::Down { .. }) => {
                missing(format!("{error}. Name its folder with {option} DIR"))
            }
            other => other,
        })
    }

    /// Finds the folder of such a model on this machine.
    pub(super) fn local_part(&self, named: &str, folder: &Path) -> Option<PathBuf> {
        let address = named.strip_prefix("hf://").unwrap_or(named);
        let is_hub = address.parse::<HubAddress>().is_ok();
        let paths = [
            environment::expand_home(&self.cache.path_of(named)),
            folder.join(named),
            self.cache.path.join(address),
        ];
        let cached = is_hub.then(|| self.cache.path_of(&format!("hf://{address}")));
        let mut all = paths.into_iter().chain(cached);
        // The hub's cache may have only a part of the files, which the download completes.
        all.find(|path| path.is_dir() && super::weights::has_weights(path))
    }

    fn fetch(&mut self, address: &HubAddress, requested: Requested) -> Result<PathBuf, ImportError> {
        let settings = HubSettings::read(environment::variable).map_err(ImportError::from)?;
        Ok(Hub::new(settings).fetch(address, requested, self.notice)?)
    }
}

/// Returns the hub's address of a model that is named by its page, or without `hf://`.
fn hub_address(source: &str) -> Option<String> {
    let page = source.strip_prefix("https://").or_else(|| source.strip_prefix("http://"));
    let name = match page {
        // What follows names a file or a revision.
        Some(page) => page
            .strip_prefix("huggingface.co/")?
            .splitn(3, '/')
            .take(2)
            .collect::<Vec<_>>()
            .join("/"),
        None => source.to_owned(),
    };
    let address = format!("hf://{name}");
    HubAddress::of(&address)?.ok().map(|_| address)
}

/// Returns the GGUF file of a folder that has no other weights.
fn only_gguf(folder: &Path) -> Option<PathBuf> {
    if folder.join(crate::hub::CONFIG).is_file() {
        return None;
    }
    let entries = std::fs::read_dir(folder).ok()?.filter_map(Result::ok).map(|entry| entry.path());
    let mut found: Vec<_> = entries.filter(|path| path.extension().is_some_and(|end| end == "gguf")).collect();
    (found.len() == 1).then(|| found.remove(0))
}
