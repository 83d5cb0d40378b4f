//! Packagers, which copy the user's code to the cluster.
//!
//! [`pack`] collects the files in one archive on this machine, without a trace in the user's folders. [`Package::send`]
//! uploads it by its content's hash and unpacks it into the job's folder, where relative paths of the run lead.

mod archive;
mod command;
mod git;
mod git_commit;
mod include;
mod pattern;
mod send;

use std::{
    future::Future,
    path::{Path, PathBuf},
    pin::Pin,
};

use neva_schemas::PackagerConfig;
use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

use archive::Archive;

use crate::packager_error::PackagerError;

/// Folder of the unpacked code in the job's folder.
pub const CODE_FOLDER: &str = "code";
/// File in the job's folder with the included changes that are not committed.
pub const CODE_DIFF: &str = "code.diff";
/// File in the job's folder with the origin of the code, a [`CodeRecord`].
pub const CODE_RECORD: &str = "code.json";

/// Packed code.
#[derive(Debug)]
pub struct Package {
    content: Content,
    record: CodeRecord,
    diff: Vec<u8>,
    warnings: Vec<String>,
}

#[derive(Debug)]
enum Content {
    /// An archive of the files.
    Archive(NamedTempFile),
    /// A folder on the cluster to use instead.
    Folder(PathBuf),
}

/// Origin of a job's code.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CodeRecord {
    /// Format number.
    pub format: u32,
    /// SHA-256 hash of the archive; of equal files it is equal.
    pub hash: String,
    /// Number of files.
    pub files: usize,
    /// Commit of each repository, by its folder in the package.
    pub commits: std::collections::BTreeMap<String, String>,
    /// Included files that are not committed.
    pub not_committed: Vec<String>,
}

/// What packagers collect.
struct Collected {
    archive: Archive,
    record: CodeRecord,
    diff: Vec<u8>,
    warnings: Vec<String>,
}

/// Packs the files that `config` names, with relative paths from `folder`. Returns `None` where there is nothing to copy.
///
/// # Errors
/// A file cannot be read, Git fails, or a packager finds what it refuses.
pub async fn pack(config: &PackagerConfig, folder: &Path) -> Result<Option<Package>, PackagerError> {
    let record = |hash: String, files, collected: CodeRecord| CodeRecord {
        format: 1,
        hash,
        files,
        ..collected
    };
    if let Some(there) = remote_folder(config) {
        return Ok(Some(Package {
            content: Content::Folder(there.clone()),
            record: record(String::new(), 0, CodeRecord::default()),
            diff: Vec::new(),
            warnings: Vec::new(),
        }));
    }
    if matches!(config, PackagerConfig::None(_)) {
        return Ok(None);
    }
    let mut collected = Collected {
        archive: Archive::new()?,
        record: CodeRecord::default(),
        diff: Vec::new(),
        warnings: Vec::new(),
    };
    collect(config, folder, Path::new(""), &mut collected).await?;
    let files = collected.archive.num_files();
    let (file, hash) = collected.archive.finish()?;
    Ok(Some(Package {
        content: Content::Archive(file),
        record: record(hash, files, collected.record),
        diff: collected.diff,
        warnings: collected.warnings,
    }))
}

/// Adds the files of a packager below `prefix`.
fn collect<'a>(
    config: &'a PackagerConfig,
    folder: &'a Path,
    prefix: &'a Path,
    collected: &'a mut Collected,
) -> Pin<Box<dyn Future<Output = Result<(), PackagerError>> + Send + 'a>> {
    Box::pin(async move {
        match config {
            PackagerConfig::None(_) => Ok(()),
            PackagerConfig::GitArchive(git) => git::collect(git, folder, prefix, collected).await,
            PackagerConfig::Pattern(pattern) => pattern::collect(pattern, folder, prefix, &mut collected.archive),
            PackagerConfig::Hybrid(hybrid) => {
                for (name, config) in &hybrid.sub_packagers {
                    let below = if hybrid.extract_at_root {
                        prefix.to_owned()
                    } else {
                        prefix.join(name)
                    };
                    collect(config, folder, &below, collected).await?;
                }
                Ok(())
            }
        }
    })
}

/// Returns the folder on the cluster that a packager uses instead of a copy.
fn remote_folder(config: &PackagerConfig) -> Option<&PathBuf> {
    match config {
        PackagerConfig::None(none) => none.symlink_from_remote_dir.as_ref(),
        PackagerConfig::GitArchive(git) => git.symlink_from_remote_dir.as_ref(),
        PackagerConfig::Pattern(pattern) => pattern.symlink_from_remote_dir.as_ref(),
        PackagerConfig::Hybrid(hybrid) => hybrid.symlink_from_remote_dir.as_ref(),
    }
}

impl Package {
    /// Returns the origin of the code.
    pub fn record(&self) -> &CodeRecord {
        &self.record
    }

    /// Returns the included changes that are not committed, as `git diff` prints them.
    pub fn diff(&self) -> &[u8] {
        &self.diff
    }

    /// Returns sentences about work that is left out.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Returns the archive; `None` if a folder on the cluster is used.
    pub fn archive(&self) -> Option<&Path> {
        match &self.content {
            Content::Archive(file) => Some(file.path()),
            Content::Folder(_) => None,
        }
    }
}
