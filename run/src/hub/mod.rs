//! Downloads of models from the Hugging Face hub, into the cache of Python's `huggingface_hub`.
//!
//! Only the launcher and `neva-run import` download, before ranks start; ranks read the cache. Cached files are not
//! requested again. The `hf-hub` crate (1.0.0) checks no hash, restarts a lost download, sets no timeouts and does not wait
//! as Retry-After says, so requests are made here.
//!
//! ```text
//! address --cache--> snapshot, if it is complete
//!         --listing--> commit, files, hashes --download, lock, hash--> blobs --links--> snapshot, reference
//! ```

mod download;
mod error;
mod files;
mod http;
mod listing;
mod lock;
mod settings;

use std::{
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use neva_layout::{HubAddress, HubCache};

pub use self::error::HubError;
use self::{
    files::missing,
    http::{Client, with_address},
    listing::{Listing, RemoteFile},
};
pub(crate) use self::{
    files::{ADAPTER_CONFIG, ADAPTERS, CONFIG, INDEX, NON_LORA, PICKLE, PICKLE_INDEX, PROJECTOR, Requested, TOOLS, WEIGHTS, shards},
    settings::HubSettings,
};

/// Receives progress messages of a download.
pub(crate) type Notice<'a> = &'a mut dyn FnMut(&str);

/// The hub and its cache.
pub(crate) struct Hub {
    settings: HubSettings,
}

impl Hub {
    pub(crate) fn new(settings: HubSettings) -> Self {
        Self { settings }
    }

    /// Returns the folder with the `requested` files of `address`. Files that the cache lacks are downloaded.
    ///
    /// # Errors
    /// Requests are forbidden; the hub does not reply, or has no such model; a file has another hash; the cache cannot be
    /// written.
    pub(crate) fn fetch(&self, address: &HubAddress, requested: Requested, notice: Notice<'_>) -> Result<PathBuf, HubError> {
        let cache = &self.settings.cache;
        let known = cache.commit(address).zip(cache.snapshot(address));
        let lacks = known
            .as_ref()
            .map(|(commit, snapshot)| missing(cache, address, commit, snapshot, requested));
        if let (Some((_, snapshot)), Some(lacks)) = (&known, &lacks)
            && (lacks.is_empty() || (self.settings.offline && lacks.is_usable()))
        {
            return Ok(snapshot.clone());
        }
        if self.settings.offline {
            return Err(HubError::Offline {
                address: address.to_string(),
                file: lacks.map(|lacks| lacks.first()),
                cache: cache.path.clone(),
            });
        }
        let fetched = self.fetch_from_hub(address, requested, notice);
        match (fetched, known, lacks) {
            // The cached files are sufficient.
            (Err(HubError::Down { .. }), Some((_, snapshot)), Some(lacks)) if lacks.is_usable() => Ok(snapshot),
            (fetched, _, _) => fetched,
        }
    }

    fn fetch_from_hub(&self, address: &HubAddress, requested: Requested, notice: Notice<'_>) -> Result<PathBuf, HubError> {
        let client = Client::new(&self.settings)?;
        let listing = Listing::request(&client, address, notice)?;
        let snapshot = Snapshot::of(&self.settings.cache, address, &listing.commit);
        fs::create_dir_all(&snapshot.path).map_err(|source| HubError::io("create", &snapshot.path, source))?;
        // These files name the others.
        for name in requested.first() {
            if let Some(file) = listing.file(name) {
                snapshot.add(&client, file, notice)?;
            }
        }
        for file in listing.requested(address, requested, &snapshot.path)? {
            snapshot.add(&client, file, notice)?;
        }
        for name in files::OPTIONAL.iter().filter(|name| listing.file(name).is_none()) {
            snapshot.record_missing(name)?;
        }
        snapshot.record_revision(address)?;
        Ok(snapshot.path)
    }
}

/// Folders of one commit of a model in the cache.
struct Snapshot {
    address: HubAddress,
    commit: String,
    /// `models--ORG--NAME`.
    folder: PathBuf,
    /// Its `snapshots/COMMIT`.
    path: PathBuf,
    /// Folder of the locks of its blobs.
    locks: PathBuf,
}

impl Snapshot {
    fn of(cache: &HubCache, address: &HubAddress, commit: &str) -> Self {
        let folder = cache.folder(address);
        Self {
            address: address.clone(),
            commit: commit.to_owned(),
            path: folder.join("snapshots").join(commit),
            locks: cache.path.join(".locks").join(folder.file_name().unwrap_or_default()),
            folder,
        }
    }

    /// Downloads a file, unless the snapshot has it.
    fn add(&self, client: &Client, file: &RemoteFile, notice: Notice<'_>) -> Result<(), HubError> {
        let link = self.path.join(&file.path);
        if link.is_file() {
            return Ok(());
        }
        let url = client.file_url(&self.address, &self.commit, &file.path);
        let blobs = self.folder.join("blobs");
        for folder in [&blobs, &self.locks] {
            fs::create_dir_all(folder).map_err(|source| HubError::io("create", folder, source))?;
        }
        let blob = download::blob(client, &url, file, &blobs, &self.locks, notice);
        let blob = blob.map_err(|error| with_address(error, &self.address))?;
        let target = Path::new("../../blobs").join(blob.file_name().unwrap_or_default());
        // A cleaned cache may contain broken links.
        match fs::remove_file(&link) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(HubError::io("replace", &link, error)),
            _ => {}
        }
        match symlink(target, &link) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(HubError::io("create", &link, error)),
            _ => Ok(()),
        }
    }

    /// Records that the model has no file of this name.
    fn record_missing(&self, name: &str) -> Result<(), HubError> {
        let folder = self.folder.join(".no_exist").join(&self.commit);
        fs::create_dir_all(&folder).map_err(|source| HubError::io("create", &folder, source))?;
        let path = folder.join(name);
        fs::write(&path, "").map_err(|source| HubError::io("write", &path, source))
    }

    /// Records the commit of the address.
    fn record_revision(&self, address: &HubAddress) -> Result<(), HubError> {
        if address.revision() == self.commit {
            return Ok(());
        }
        let path = self.folder.join("refs").join(address.revision());
        let parent = path.parent().unwrap_or(&self.folder);
        fs::create_dir_all(parent).map_err(|source| HubError::io("create", parent, source))?;
        let written = tempfile::NamedTempFile::new_in(parent).and_then(|file| {
            fs::write(file.path(), &self.commit)?;
            file.persist(&path).map_err(|error| error.error)
        });
        written.map(drop).map_err(|source| HubError::io("write", &path, source))
    }
}
