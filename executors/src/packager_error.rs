//! Errors of packagers.

use std::path::PathBuf;

use neva_schemas::{ExitClass, exit_class};

/// An error of a packager: the code of a run cannot be packed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PackagerError {
    /// The folder is in no repository.
    #[error("{} is in no Git repository", folder.display())]
    NoRepository {
        /// The folder.
        folder: PathBuf,
    },
    /// Git failed.
    #[error("`git {command}` failed in {}: {reason}", folder.display())]
    Git {
        /// Its arguments.
        command: String,
        /// Where it ran.
        folder: PathBuf,
        /// Its words.
        reason: String,
    },
    /// Work that is not committed, which the packager refuses.
    #[error("{} holds {what} that are not committed: {files}", folder.display())]
    NotCommitted {
        /// The repository.
        folder: PathBuf,
        /// `changes` or `untracked files`.
        what: &'static str,
        /// The first of them.
        files: String,
        /// Field of the packager that refuses them.
        field: &'static str,
    },
    /// Uncommitted work cannot be added to another commit than the current one.
    #[error("`{field}: include` needs the current commit, but `ref` is {reference}")]
    OtherCommit {
        /// The field.
        field: &'static str,
        /// The `ref` of the packager.
        reference: String,
    },
    /// A submodule has no files here.
    #[error("the submodule {} is not checked out", path.display())]
    Submodule {
        /// Its folder.
        path: PathBuf,
    },
    /// A pattern is malformed.
    #[error("{pattern:?} is not a pattern: {reason}")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What is wrong.
        reason: String,
    },
    /// No file fits a pattern.
    #[error("no file fits {pattern:?} in {}", folder.display())]
    NoMatch {
        /// The pattern.
        pattern: String,
        /// The folder that it is relative to.
        folder: PathBuf,
    },
    /// A file is not in the folder that its name is relative to.
    #[error("{} is not in {}", path.display(), folder.display())]
    Outside {
        /// The file.
        path: PathBuf,
        /// The folder.
        folder: PathBuf,
    },
    /// Two packagers or patterns bring the same file, or a file where another brings a folder.
    #[error("{} is brought twice", path.display())]
    Twice {
        /// Its name in the package.
        path: PathBuf,
    },
    /// A name that could be written outside of the code's folder.
    #[error("{} is not a name within a folder", path.display())]
    Unsafe {
        /// The name.
        path: PathBuf,
    },
    /// A local file cannot be read or written.
    #[error("cannot {action} {}", path.display())]
    File {
        /// Failed action.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Error of the system.
        source: std::io::Error,
    },
    /// The package cannot be unpacked on the cluster.
    #[error("the code cannot be unpacked into {} on {place}: {reason}", folder.display())]
    Unpack {
        /// The machine.
        place: String,
        /// The folder.
        folder: PathBuf,
        /// The machine's words.
        reason: String,
    },
}

impl PackagerError {
    /// Returns the launcher's exit code for this error.
    pub fn exit_code(&self) -> ExitClass {
        match self {
            Self::File { .. } | Self::Unpack { .. } => exit_class::CLUSTER,
            _ => exit_class::INPUT,
        }
    }

    /// Returns a suggested fix, if there is one.
    pub fn help(&self) -> Option<String> {
        Some(match self {
            Self::NoRepository { .. } => {
                "start the run in the repository, name it with `packager.basepath`, or use `run.PatternPackager`".to_owned()
            }
            Self::NotCommitted { field, .. } => format!("commit them, or set `packager.{field}: include`"),
            Self::OtherCommit { field, .. } => format!("remove `ref`, or set `packager.{field}: ignore`"),
            Self::Submodule { .. } => {
                "type `git submodule update --init --recursive`, or set `packager.include_submodules: false`".to_owned()
            }
            Self::NoMatch { .. } => "correct the pattern, or remove it".to_owned(),
            Self::Outside { .. } => "name a folder above it with `include_pattern_relative_path` or `relative_path`".to_owned(),
            Self::Twice { .. } => "remove one of them, or set `extract_at_root: false`".to_owned(),
            _ => return None,
        })
    }
}
