//! The files of a commit, which `git archive` prints.

use std::{
    collections::BTreeSet,
    io::Read as _,
    path::{Path, PathBuf},
};

use tar::EntryType;
use tempfile::NamedTempFile;

use super::{Collected, archive::Archive, command::git, git::Repository};
use crate::packager_error::PackagerError;

impl Repository<'_> {
    /// Adds the files of the commit but for `skipped` ones.
    pub(super) async fn add_commit(&self, skipped: &BTreeSet<&Path>, collected: &mut Collected) -> Result<(), PackagerError> {
        let failed = |source| PackagerError::File {
            action: "read",
            path: PathBuf::from("the archive of git"),
            source,
        };
        let file = NamedTempFile::new().map_err(failed)?;
        let output = format!("--output={}", file.path().display());
        let mut arguments = vec!["archive", "--format=tar", output.as_str(), self.commit.as_str()];
        let within = self.subpath.strip_prefix(&self.at).unwrap_or(Path::new("")).display().to_string();
        if !within.is_empty() {
            arguments.extend(["--", within.as_str()]);
        }
        git(self.config, &self.root, &arguments).await?;
        let mut archive = tar::Archive::new(file.reopen().map_err(failed)?);
        for entry in archive.entries().map_err(failed)? {
            let mut entry = entry.map_err(failed)?;
            let path = entry.path().map_err(failed)?.into_owned();
            if skipped.contains(path.as_path()) || !self.is_copied(&path) {
                continue;
            }
            add_entry(&mut collected.archive, &self.name(&path), &mut entry).map_err(|error| match error {
                EntryError::Read(source) => failed(source),
                EntryError::Packager(error) => error,
            })?;
        }
        Ok(())
    }
}

enum EntryError {
    Read(std::io::Error),
    Packager(PackagerError),
}

/// Adds an entry of another archive; folders are made by their files.
fn add_entry(archive: &mut Archive, name: &Path, entry: &mut tar::Entry<'_, std::fs::File>) -> Result<(), EntryError> {
    let header = entry.header();
    match header.entry_type() {
        EntryType::Symlink => {
            let target = entry.link_name().map_err(EntryError::Read)?.unwrap_or_default().into_owned();
            archive.add_link(name, &target).map_err(EntryError::Packager)
        }
        EntryType::Regular => {
            let is_executable = header.mode().map_err(EntryError::Read)? & 0o100 != 0;
            let len = entry.size();
            archive
                .add_file(name, len, is_executable, entry.take(len))
                .map_err(EntryError::Packager)
        }
        _ => Ok(()),
    }
}
