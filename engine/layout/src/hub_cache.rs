//! Addresses of models of the Hugging Face hub, and the cache of Python's `huggingface_hub`.
//!
//! ```text
//! models--ORG--NAME/refs/REVISION            holds a commit
//! models--ORG--NAME/snapshots/COMMIT/FILE    link to a blob
//! models--ORG--NAME/blobs/HASH               content
//! models--ORG--NAME/.no_exist/COMMIT/FILE    the repository has no such file
//! ```

use neva_schemas::env;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Scheme of an address of the hub.
const SCHEME: &str = "hf://";
/// Default revision.
const MAIN: &str = "main";
/// Maximum length of the name of an organization or of a model in the hub.
const LONGEST_NAME: usize = 96;

/// A model of the hub: `hf://ORG/NAME` or `hf://ORG/NAME@REVISION`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubAddress {
    /// `ORG/NAME`.
    pub repository: String,
    /// Branch, tag or commit; `None` means `main`.
    pub revision: Option<String>,
}

/// An invalid address of the hub.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{address}` is not the address of a model: {reason}")]
pub struct HubAddressError {
    /// The address as written.
    pub address: String,
    /// Its problem.
    pub reason: &'static str,
}

impl HubAddress {
    /// Parses `text` if it is an address of the hub; returns `None` for another path. `hf:///PATH` is a folder of this
    /// machine, as in NeMo.
    ///
    /// # Errors
    /// The text begins with `hf://`, but is not the address of a model.
    pub fn of(text: &str) -> Option<Result<Self, HubAddressError>> {
        text.strip_prefix(SCHEME)
            .filter(|rest| !rest.starts_with('/'))
            .map(|_| text.parse())
    }

    /// Returns the revision, explicit or default.
    pub fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or(MAIN)
    }
}

impl FromStr for HubAddress {
    type Err = HubAddressError;

    fn from_str(text: &str) -> Result<Self, HubAddressError> {
        let refused = |reason| HubAddressError {
            address: text.to_owned(),
            reason,
        };
        let rest = text.strip_prefix(SCHEME).unwrap_or(text);
        let (repository, revision) = match rest.split_once('@') {
            Some((repository, revision)) => (repository, Some(revision)),
            None => (rest, None),
        };
        let Some((organization, model)) = repository.split_once('/') else {
            return Err(refused("write hf://ORG/NAME"));
        };
        let is_part = |part: &str| {
            let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            !part.is_empty()
                && part.len() <= LONGEST_NAME
                && part.chars().all(known)
                && !part.starts_with(['.', '-'])
                && !part.contains("..")
        };
        if !is_part(organization) || !is_part(model) || repository.contains("--") {
            return Err(refused(
                "ORG and NAME may have letters, digits and `-_.`; a revision follows `@`: hf://ORG/NAME@REVISION",
            ));
        }
        if let Some(revision) = revision {
            let parts = revision.split('/').all(is_part);
            if !parts {
                return Err(refused("a revision is a branch, a tag or a commit: hf://ORG/NAME@main"));
            }
        }
        Ok(Self {
            repository: repository.to_owned(),
            revision: revision.map(str::to_owned),
        })
    }
}

impl fmt::Display for HubAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}", self.repository)?;
        self.revision.as_ref().map_or(Ok(()), |revision| write!(f, "@{revision}"))
    }
}

/// The cache of `huggingface_hub` on this machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HubCache {
    /// The folder with a folder for each model.
    pub path: PathBuf,
}

impl HubCache {
    /// Finds the cache as `huggingface_hub` does; `lookup` returns environment variables.
    pub fn locate(lookup: impl Fn(&str) -> Option<String>) -> Self {
        let set = |name: &str| lookup(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let named = set(env::HF_HUB_CACHE).or_else(|| set(env::HUGGINGFACE_HUB_CACHE));
        Self {
            path: named.unwrap_or_else(|| Self::home(&lookup).join("hub")),
        }
    }

    /// Returns the default folder of cache and token.
    pub fn home(lookup: impl Fn(&str) -> Option<String>) -> PathBuf {
        let set = |name: &str| lookup(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let cache = || set(env::XDG_CACHE_HOME).unwrap_or_else(|| set(env::HOME).unwrap_or_default().join(".cache"));
        set(env::HF_HOME).unwrap_or_else(|| cache().join("huggingface"))
    }

    /// Returns the folder of a model: `models--ORG--NAME`.
    pub fn folder(&self, address: &HubAddress) -> PathBuf {
        self.path.join(format!("models--{}", address.repository.replace('/', "--")))
    }

    /// Returns the cached commit of an address.
    pub fn commit(&self, address: &HubAddress) -> Option<String> {
        let folder = self.folder(address);
        if is_commit(address.revision()) && folder.join("snapshots").join(address.revision()).is_dir() {
            return Some(address.revision().to_owned());
        }
        let text = std::fs::read_to_string(folder.join("refs").join(address.revision())).ok()?;
        Some(text.trim().to_owned()).filter(|commit| is_commit(commit))
    }

    /// Returns the folder of the cached files of an address; some may be missing.
    pub fn snapshot(&self, address: &HubAddress) -> Option<PathBuf> {
        let commit = self.commit(address)?;
        Some(self.folder(address).join("snapshots").join(commit)).filter(|path| path.is_dir())
    }

    /// Returns whether the cache records that the model has no file of this name.
    pub fn lacks(&self, address: &HubAddress, commit: &str, file: &str) -> bool {
        self.folder(address).join(".no_exist").join(commit).join(file).exists()
    }

    /// Returns the folder of the files of an address, which may not exist. It is `imported` if the cache has no model.
    pub(crate) fn path_of(&self, address: &HubAddress, imported: &Path) -> PathBuf {
        let snapshot = self.snapshot(address);
        if let Some(whole) = snapshot.clone().filter(|path| path.join("config.json").is_file()) {
            return whole;
        }
        // An imported model does not record its revision.
        if address.revision.is_none() && imported.is_dir() {
            return imported.to_owned();
        }
        snapshot.unwrap_or_else(|| self.folder(address).join("snapshots").join(address.revision()))
    }
}

/// Returns whether `text` is the hash of a commit.
pub(crate) fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (text, repository, revision) in [
            ("hf://llava-hf/llava-1.5-7b-hf", "llava-hf/llava-1.5-7b-hf", None),
            ("hf://a/b@refs/pr/1", "a/b", Some("refs/pr/1")),
            ("hf://a/b_c.d@v1.0", "a/b_c.d", Some("v1.0")),
        ] {
            let address = HubAddress::of(text).unwrap().unwrap();
            assert_eq!((address.repository.as_str(), address.revision.as_deref()), (repository, revision));
            assert_eq!(address.to_string(), text);
        }
        for text in [
            "hf://",
            "hf://a",
            "hf://a/",
            "hf://a/b/c",
            "hf://../b",
            "hf://a/b@",
            "hf://a/b@../c",
            "hf://a/b c",
            "hf://a/b@a//b",
        ] {
            assert!(HubAddress::of(text).unwrap().is_err(), "{text}");
        }
        for text in ["/a/b", "nemo://a/b", "hf:///a/b", "a"] {
            assert_eq!(HubAddress::of(text), None);
        }
    }

    #[test]
    fn variables_name_the_cache() {
        let cases: &[(&[(&str, &str)], &str)] = &[
            (&[("HOME", "/h")], "/h/.cache/huggingface/hub"),
            (&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")], "/x/huggingface/hub"),
            (&[("XDG_CACHE_HOME", "/x"), ("HF_HOME", "/f")], "/f/hub"),
            (&[("HF_HOME", "/f"), ("HUGGINGFACE_HUB_CACHE", "/o")], "/o"),
            (&[("HUGGINGFACE_HUB_CACHE", "/o"), ("HF_HUB_CACHE", "/c")], "/c"),
        ];
        for (variables, path) in cases {
            let lookup = |name: &str| variables.iter().find(|(own, _)| *own == name).map(|(_, value)| (*value).to_owned());
            assert_eq!(HubCache::locate(lookup).path, Path::new(path));
        }
    }
}
