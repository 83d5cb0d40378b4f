//! Finds the rank program and asks what it is.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    sync::OnceLock,
    time::Duration,
};

use neva_schemas::env;
use serde::{Deserialize, Serialize};
use tokio::{process::Command, time::timeout};

use crate::error::RunError;

/// File name of our rank program.
const OURS: &str = "neva-rank";

/// File name of the rank program that goes with this program, where that is a launcher of somebody's own. It is what
/// the program is, and not what it was told, so it is set once, first of all.
static OWN: OnceLock<&'static str> = OnceLock::new();

/// Says that this program is a launcher of somebody's own.
pub(crate) fn goes_with(rank: &'static str) {
    // A program is one launcher only.
    let _ = OWN.set(rank);
}

/// File name of the rank program.
pub(crate) fn name() -> &'static str {
    OWN.get().copied().unwrap_or(OURS)
}

/// How long `neva-rank version` may take; loading libtorch from a cold disk is slow.
const VERSION_DEADLINE: Duration = Duration::from_secs(60);

/// The libtorch that the rank program is made for.
pub const LIBTORCH_VERSION: &str = "2.11";

/// What `neva-rank version` prints, as one line of JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RankVersion {
    /// Version of the rank program.
    pub version: String,
    /// Version of the libtorch that it runs on.
    pub libtorch: String,
    /// Whether it can use a GPU.
    pub cuda: bool,
}

/// Finds the rank program: the one that `NEVA_RANK` names, else the one in `exe_dir` (beside this
/// program), else the first in PATH. An own rank program, which somebody names, goes before ours.
///
/// # Errors
/// There is none, or the one that is named is not there.
pub fn find(lookup: impl Fn(&str) -> Option<String>, exe_dir: Option<&Path>) -> Result<PathBuf, RunError> {
    if let Some(named) = lookup(env::NEVA_RANK).filter(|named| !named.is_empty()) {
        // Absolute, because a name without a slash would be looked for in PATH.
        let path = std::path::absolute(&named).unwrap_or_else(|_| PathBuf::from(&named));
        return if path.is_file() {
            Ok(path)
        } else {
            Err(RunError::NoRankProgram { named: Some(path) })
        };
    }
    let path = lookup("PATH").unwrap_or_default();
    let folders = exe_dir.map(Path::to_owned).into_iter().chain(std::env::split_paths(&path));
    let found = folders
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join(name()))
        .find(|file| file.is_file());
    found.ok_or(RunError::NoRankProgram { named: None })
}

/// [`find`] for this process. Cargo puts examples into a folder below that of the programs.
pub(crate) fn find_here() -> Result<PathBuf, RunError> {
    let exe = std::env::current_exe().ok();
    let beside = exe.as_deref().and_then(Path::parent);
    let above = beside.filter(|folder| folder.ends_with("examples") && !folder.join(name()).is_file());
    find(crate::environment::variable, above.and_then(Path::parent).or(beside))
}

/// Asks `program` for its version; that it answers also tells that libtorch is found.
///
/// # Errors
/// It does not start, fails, or answers with something else.
pub async fn version(program: &Path) -> Result<RankVersion, RunError> {
    let failed = |reason: String| RunError::RankProgram {
        program: program.to_owned(),
        reason,
    };
    let output = Command::new(program)
        .arg("version")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = timeout(VERSION_DEADLINE, output)
        .await
        .map_err(|_| failed(format!("it did not answer within {} s", VERSION_DEADLINE.as_secs())))?
        .map_err(|error| failed(error.to_string()))?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    if output.status.code() == Some(127) || stderr.contains("error while loading shared libraries") {
        return Err(RunError::NoLibtorch {
            program: program.to_owned(),
        });
    }
    if !output.status.success() {
        let last = stderr.lines().last().unwrap_or_default();
        return Err(failed(format!("{}: {last}", output.status)));
    }
    serde_json::from_slice(&output.stdout).map_err(|error| failed(format!("it did not answer in JSON: {error}")))
}
