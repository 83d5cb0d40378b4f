//! The state of the working directory, as git tells it: the commit, and what was changed since.

use std::{path::Path, process::Stdio, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::{process::Command, time::timeout};

use super::record::{file_error, read_json, write_json};
use crate::error::RunError;

const STATE_FILE: &str = "git.json";
const DIFF_FILE: &str = "git.diff";

/// Most bytes of a diff that are kept.
const DIFF_LIMIT: usize = 1 << 20;

/// How long git may take: an experiment does not wait for a slow disk.
const DEADLINE: Duration = Duration::from_secs(5);

/// Format number of the file. A reader refuses others.
const STATE_FORMAT: u32 = 1;

/// What git says of a folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GitState {
    /// Format number.
    pub format: u32,
    /// The commit; none outside of a repository.
    pub commit: Option<String>,
    /// Whether tracked files were changed since; `git.diff` holds the changes.
    pub dirty: bool,
    /// BLAKE3 of the changes.
    pub diff_hash: Option<String>,
    /// The changes are more than what is kept of them.
    pub diff_cut: bool,
}

/// Asks git after `folder`: its state, and the changes themselves. Where git is not there, does not answer in time
/// or knows nothing, nothing is known.
pub(super) async fn state(folder: &Path) -> (GitState, Vec<u8>) {
    let (commit, diff) = tokio::join!(
        output(folder, &["rev-parse", "HEAD"]),
        // Neither colours nor programs of the user's, so that the same changes give the same bytes.
        output(folder, &["diff", "HEAD", "--no-color", "--no-ext-diff", "--no-textconv"]),
    );
    // Without a commit there is nothing that it could differ from.
    let mut diff = commit.as_ref().and(diff).unwrap_or_default();
    let state = GitState {
        format: STATE_FORMAT,
        commit: commit.map(|commit| String::from_utf8_lossy(&commit).trim().to_owned()),
        dirty: !diff.is_empty(),
        diff_hash: (!diff.is_empty()).then(|| blake3::hash(&diff).to_hex().to_string()),
        diff_cut: diff.len() > DIFF_LIMIT,
    };
    diff.truncate(DIFF_LIMIT);
    (state, diff)
}

/// Keeps what [`state`] found.
pub(super) fn write(folder: &Path, (state, diff): &(GitState, Vec<u8>)) -> Result<(), RunError> {
    if !diff.is_empty() {
        let path = folder.join(DIFF_FILE);
        std::fs::write(&path, diff).map_err(file_error("write", &path))?;
    }
    write_json(&folder.join(STATE_FILE), state)
}

/// What was kept; nothing where the file is not there.
pub(super) fn read(folder: &Path) -> Result<Option<GitState>, RunError> {
    read_json(&folder.join(STATE_FILE), STATE_FORMAT)
}

async fn output(folder: &Path, arguments: &[&str]) -> Option<Vec<u8>> {
    let run = Command::new("git")
        .arg("-C")
        .arg(folder)
        .args(arguments)
        .env("GIT_OPTIONAL_LOCKS", "0")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = timeout(DEADLINE, run).await.ok()?.ok()?;
    output.status.success().then_some(output.stdout)
}
