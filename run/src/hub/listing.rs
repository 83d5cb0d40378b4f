//! The files of one commit of a repository, with their hashes.

use std::path::Path;

use neva_layout::HubAddress;
use serde::Deserialize;

use super::{
    Notice,
    error::HubError,
    files::{self, Requested, WEIGHTS},
    http::Client,
};

/// A commit and its files.
#[derive(Debug)]
pub(super) struct Listing {
    pub(super) commit: String,
    files: Vec<RemoteFile>,
}

/// A file of the repository.
#[derive(Debug, Clone)]
pub(super) struct RemoteFile {
    /// Its name, without a folder.
    pub(super) path: String,
    pub(super) size: Option<u64>,
    /// SHA-256 of a large file, git's SHA-1 of a small one; `None` means the ETag of the file's reply.
    pub(super) hash: Option<String>,
}

/// Reply of the hub.
#[derive(Deserialize)]
struct Reply {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    #[serde(rename = "blobId")]
    blob_id: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: Option<String>,
    size: Option<u64>,
}

impl Listing {
    /// Requests the list of files.
    pub(super) fn request(client: &Client, address: &HubAddress, notice: Notice<'_>) -> Result<Self, HubError> {
        let url = client.listing_url(address);
        let text = client.text(&url, address, notice)?;
        let wrong = |reason: String| HubError::Answer { url: url.clone(), reason };
        let reply: Reply = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        let is_commit = reply.sha.len() == 40 && reply.sha.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !is_commit {
            return Err(wrong("`sha` is not a commit".to_owned()));
        }
        let files = reply
            .siblings
            .into_iter()
            .filter(|sibling| files::is_plain(&sibling.rfilename))
            .map(|sibling| {
                let (lfs_hash, lfs_size) = sibling.lfs.map_or((None, None), |lfs| (lfs.sha256, lfs.size));
                RemoteFile {
                    path: sibling.rfilename,
                    size: lfs_size.or(sibling.size),
                    hash: lfs_hash.or(sibling.blob_id).filter(|hash| files::is_hash(hash)),
                }
            });
        Ok(Self {
            commit: reply.sha,
            files: files.collect(),
        })
    }

    pub(super) fn file(&self, name: &str) -> Option<&RemoteFile> {
        self.files.iter().find(|file| file.path == name)
    }

    /// Returns the requested files of `address`. Those of [`Requested::first`] are in `snapshot`.
    pub(super) fn requested(&self, address: &HubAddress, requested: Requested, snapshot: &Path) -> Result<Vec<&RemoteFile>, HubError> {
        let lacks = |file: &str, found: Vec<String>| HubError::Lacks {
            address: address.to_string(),
            file: file.to_owned(),
            found,
        };
        let mut found: Vec<_> = requested.names().filter_map(|name| self.file(name)).collect();
        let names: Vec<_> = self.files.iter().map(|file| file.path.clone()).collect();
        let weights = files::weights(requested, &names, snapshot);
        let is_gguf = |names: &Vec<String>| names.iter().any(|name| name.ends_with(".gguf"));
        let needs_config = !matches!(&weights, Some(Ok(names)) if is_gguf(names));
        if requested != Requested::Tools && needs_config && self.file(files::CONFIG).is_none() {
            return Err(lacks(files::CONFIG, Vec::new()));
        }
        if !matches!(requested, Requested::Model | Requested::Import) {
            return Ok(found);
        }
        match weights {
            Some(Ok(names)) => {
                for name in names {
                    found.push(self.file(&name).ok_or_else(|| lacks(&name, Vec::new()))?);
                }
            }
            Some(Err(index)) => return Err(lacks(&format!("readable {index}"), Vec::new())),
            None => {
                let ends = [".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack"];
                let is_other = |file: &&RemoteFile| ends.iter().any(|end| file.path.ends_with(end));
                let others = self.files.iter().filter(is_other).map(|file| file.path.clone());
                return Err(lacks(WEIGHTS, others.collect()));
            }
        }
        Ok(found)
    }
}
