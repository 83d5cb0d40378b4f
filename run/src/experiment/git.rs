//! State of the working directory in git: the commit, and the changes since.

use std::{path::Path, process::Stdio, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::{process::Command, time::timeout};

use super::record::{file_error, read_json, write_json_unsynced};
use crate::error::RunError;

const STATE_FILE: &str = "git.json";
const DIFF_FILE: &str = "git.diff";

/// Maximum size of a stored diff in bytes.
const DIFF_LIMIT: usize = 1 << 20;

/// Timeout of git, so that a slow disk does not delay an experiment.
const DEADLINE: Duration = Duration::from_secs(5);

/// Format number of the file. A reader refuses others.
const STATE_FORMAT: u32 = 1;

/// State of a folder in git.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GitState {
    /// Format number.
    pub format: u32,
    /// The commit; `None` outside of a repository.
    pub commit: Option<String>,
    /// True if tracked files have changed since; `git.diff` holds the changes.
    pub dirty: bool,
    /// BLAKE3 hash of the changes.
    pub diff_hash: Option<String>,
    /// True if the stored changes are truncated.
    pub diff_cut: bool,
}

/// Returns the state of `folder` and the changes themselves. The state is empty if git is missing, times out or fails.
pub(super) async fn state(folder: &Path) -> (GitState, Vec<u8>) {
    let (commit, diff) = tokio::join!(
        output(folder, &["rev-parse", "HEAD"]),
        // Without colours and external programs, so that equal changes give equal bytes.
        output(folder, &["diff", "HEAD", "--no-color", "--no-ext-diff", "--no-textconv"]),
    );
    // Without a commit there is no diff.
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

/// Writes the result of [`state`].
pub(super) fn write(folder: &Path, (state, diff): &(GitState, Vec<u8>)) -> Result<(), RunError> {
    if !diff.is_empty() {
        let path = folder.join(DIFF_FILE);
        std::fs::write(&path, diff).map_err(file_error("write", &path))?;
    }
    // The record of the experiment, which is written next, is synced.
    write_json_unsynced(&folder.join(STATE_FILE), state)
}

/// Reads the stored state; `None` if there is no file.
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
