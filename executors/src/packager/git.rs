//! `run.GitArchivePackager`: the files of a commit, and uncommitted work if it is wanted. Nothing is left out silently, and
//! nothing is written into the repository.

use std::{
    collections::BTreeSet,
    future::Future,
    path::{Path, PathBuf},
    pin::Pin,
};

use neva_schemas::{GitArchivePackagerConfig, OutsideCommit};

use super::{
    Collected,
    command::{git, names_of, no_repository, path_of, text},
    include,
};
use crate::packager_error::PackagerError;

/// Names that a message lists.
const LISTED: usize = 3;

/// A repository: the user's, or a submodule of it.
pub(super) struct Repository<'a> {
    pub(super) config: &'a GitArchivePackagerConfig,
    pub(super) root: PathBuf,
    pub(super) commit: String,
    /// Its folder in the user's repository.
    pub(super) at: PathBuf,
    /// Folder in it whose files are copied, without which they are named.
    pub(super) subpath: PathBuf,
    /// Folder in the archive.
    prefix: PathBuf,
}

pub(super) async fn collect(
    config: &GitArchivePackagerConfig,
    folder: &Path,
    prefix: &Path,
    collected: &mut Collected,
) -> Result<(), PackagerError> {
    let base = folder.join(&config.basepath);
    let root = git(config, &base, &["rev-parse", "--show-toplevel"]).await;
    let root = root.map_err(|error| no_repository(error, &base))?;
    let root = PathBuf::from(text(&root));
    let commit = git(
        config,
        &root,
        &["rev-parse", "--verify", "--end-of-options", &format!("{}^{{commit}}", config.r#ref)],
    )
    .await?;
    let repository = Repository {
        config,
        commit: text(&commit),
        at: PathBuf::new(),
        subpath: Path::new(&config.subpath).components().collect(),
        prefix: prefix.to_owned(),
        root,
    };
    repository.collect(collected).await?;
    include::add(
        &mut collected.archive,
        prefix,
        &repository.root,
        &config.include_pattern,
        &config.include_pattern_relative_path,
    )
}

impl Repository<'_> {
    fn collect<'a>(&'a self, collected: &'a mut Collected) -> Pin<Box<dyn Future<Output = Result<(), PackagerError>> + Send + 'a>> {
        Box::pin(async move {
            let head = git(self.config, &self.root, &["rev-parse", "HEAD"]).await?;
            let is_current = text(&head) == self.commit;
            // Changes are relative to the current commit; of another one the user knows what he asks for.
            let (changed, untracked) = match is_current {
                true => (self.changed().await?, self.untracked().await?),
                false => (BTreeSet::new(), BTreeSet::new()),
            };
            let policies = self.policies();
            for (field, policy) in [("uncommitted", policies.0), ("untracked", policies.1)] {
                if policy == OutsideCommit::Include && !is_current && self.at.as_os_str().is_empty() {
                    let reference = self.config.r#ref.clone();
                    return Err(PackagerError::OtherCommit { field, reference });
                }
            }
            let changed = self.apply_policy(("uncommitted", "changes"), policies.0, changed, collected)?;
            let untracked = self.apply_policy(("untracked", "untracked files"), policies.1, untracked, collected)?;
            let submodules = self.submodules().await?;
            let key = self.prefix.join(&self.at).display().to_string();
            collected.record.commits.insert(key, self.commit.clone());

            let skipped: BTreeSet<&Path> = changed.iter().map(PathBuf::as_path).collect();
            self.add_commit(&skipped, collected).await?;
            let is_submodule = |path: &PathBuf| submodules.iter().any(|(submodule, _)| submodule == path);
            for path in changed.iter().chain(&untracked).filter(|path| !is_submodule(path)) {
                let local = self.root.join(path);
                // A deleted file is left out.
                if local.symlink_metadata().is_ok() {
                    collected.archive.add_local(&self.name(path), &local)?;
                }
                collected.record.not_committed.push(self.at.join(path).display().to_string());
            }
            if !changed.is_empty() {
                let arguments = ["diff", "HEAD", "--binary", "--no-color", "--no-ext-diff", "--no-textconv"];
                collected.diff.extend(git(self.config, &self.root, &arguments).await?);
            }
            if self.config.include_submodules {
                for (path, commit) in &submodules {
                    self.submodule(path, commit, changed.contains(path))
                        .await?
                        .collect(collected)
                        .await?;
                }
            }
            Ok(())
        })
    }

    /// Returns the name in the archive of a file.
    pub(super) fn name(&self, path: &Path) -> PathBuf {
        let at = self.at.join(path);
        self.prefix.join(at.strip_prefix(&self.subpath).unwrap_or(&at))
    }

    /// Returns true if a file is in the folder that is copied.
    pub(super) fn is_copied(&self, path: &Path) -> bool {
        self.at.join(path).starts_with(&self.subpath)
    }

    /// Returns what is done with changes and with untracked files.
    fn policies(&self) -> (OutsideCommit, OutsideCommit) {
        let policy = |is_checked: bool, policy| if is_checked { OutsideCommit::Refuse } else { policy };
        (
            policy(self.config.check_uncommitted_changes, self.config.uncommitted),
            policy(self.config.check_untracked_files, self.config.untracked),
        )
    }

    /// Returns the files to include; warns of those that are left out, or refuses them.
    fn apply_policy(
        &self,
        (field, what): (&'static str, &'static str),
        policy: OutsideCommit,
        files: BTreeSet<PathBuf>,
        collected: &mut Collected,
    ) -> Result<BTreeSet<PathBuf>, PackagerError> {
        if files.is_empty() {
            return Ok(files);
        }
        let names: Vec<_> = files
            .iter()
            .take(LISTED)
            .map(|path| self.at.join(path).display().to_string())
            .collect();
        let more = files.len() - names.len();
        let names = match more {
            0 => names.join(", "),
            more => format!("{} and {more} more", names.join(", ")),
        };
        match policy {
            OutsideCommit::Include => Ok(files),
            OutsideCommit::Ignore => Ok(BTreeSet::new()),
            OutsideCommit::Refuse => Err(PackagerError::NotCommitted {
                folder: self.root.clone(),
                what,
                files: names,
                field,
            }),
            OutsideCommit::Warn => {
                collected.warnings.push(format!(
                    "{what} in {} are not copied: {names}; commit them, or set `packager.{field}: include`",
                    self.root.display()
                ));
                Ok(BTreeSet::new())
            }
        }
    }

    /// Returns the tracked files that differ from the current commit.
    async fn changed(&self) -> Result<BTreeSet<PathBuf>, PackagerError> {
        let names = git(
            self.config,
            &self.root,
            &["diff", "HEAD", "--name-only", "--no-renames", "--ignore-submodules=dirty", "-z"],
        )
        .await?;
        Ok(self.copied(&names))
    }

    async fn untracked(&self) -> Result<BTreeSet<PathBuf>, PackagerError> {
        let names = git(self.config, &self.root, &["ls-files", "-z", "--others", "--exclude-standard"]).await?;
        Ok(self.copied(&names))
    }

    fn copied(&self, names: &[u8]) -> BTreeSet<PathBuf> {
        names_of(names).filter(|path| self.is_copied(path)).collect()
    }

    /// Returns the submodules of the commit, with theirs.
    async fn submodules(&self) -> Result<Vec<(PathBuf, String)>, PackagerError> {
        let list = git(self.config, &self.root, &["ls-tree", "-r", "-z", &self.commit]).await?;
        let entries = list.split(|byte| *byte == 0).filter_map(|entry| {
            let mut halves = entry.splitn(2, |byte| *byte == b'\t');
            let (head, path) = (text(halves.next()?), halves.next()?);
            let mut words = head.split(' ');
            let (mode, _, commit) = (words.next()?, words.next()?, words.next()?);
            (mode == "160000").then(|| (path_of(path), commit.to_owned()))
        });
        // One that contains the folder to copy counts too.
        let is_copied = |path: &Path| self.is_copied(path) || self.subpath.starts_with(self.at.join(path));
        Ok(entries.filter(|(path, _)| is_copied(path)).collect())
    }

    async fn submodule(&self, path: &Path, commit: &str, is_changed: bool) -> Result<Repository<'_>, PackagerError> {
        let root = self.root.join(path);
        if !root.join(".git").exists() {
            return Err(PackagerError::Submodule { path: self.at.join(path) });
        }
        let commit = match is_changed {
            // The user includes his changes, and this is one of them.
            true => text(&git(self.config, &root, &["rev-parse", "HEAD"]).await?),
            false => commit.to_owned(),
        };
        Ok(Repository {
            config: self.config,
            root,
            commit,
            at: self.at.join(path),
            subpath: self.subpath.clone(),
            prefix: self.prefix.clone(),
        })
    }
}
