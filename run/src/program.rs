//! Finds the rank program and queries its version.

use std::{
    collections::BTreeMap,
    fs,
    io::Read as _,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Mutex, OnceLock, PoisonError},
    time::{Duration, SystemTime},
};

use neva_executors::LoaderProblem;
use neva_schemas::env;
use serde::{Deserialize, Serialize};
use tokio::{process::Command, time::timeout};

pub(crate) use crate::rank_program::{name, set_name as set_rank_program};

use crate::{config::Factories, error::RunError};

/// Factories of a custom launcher.
static FACTORIES: OnceLock<Factories> = OnceLock::new();

/// Sets the factories of a custom launcher.
pub(crate) fn set_factories(factories: Factories) {
    // Set once at start-up.
    let _ = FACTORIES.set(factories);
}

/// Returns the factories that recipes may call.
pub(crate) fn factories() -> Factories {
    FACTORIES.get().cloned().unwrap_or_else(Factories::builtin)
}

/// Timeout of `neva-rank version`; loading libtorch from a cold disk is slow.
const VERSION_TIMEOUT: Duration = Duration::from_secs(60);

/// The first bytes of an executable.
const ELF: [u8; 4] = *b"\x7fELF";

/// The version of libtorch that the rank program is built for.
pub const LIBTORCH_VERSION: &str = "2.11";

/// Output of `neva-rank version`: one line of JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RankVersion {
    /// Version of the rank program.
    pub version: String,
    /// Version of the libtorch that it runs on.
    pub libtorch: String,
    /// True if it can use a GPU.
    pub cuda: bool,
}

/// Finds the rank program: the one that `NEVA_RANK` names, else the one in `exe_dir` (beside this
/// program), else the first in PATH.
///
/// # Errors
/// No rank program exists, or `NEVA_RANK` names a missing file.
pub fn find(lookup: impl Fn(&str) -> Option<String>, exe_dir: Option<&Path>) -> Result<PathBuf, RunError> {
    if let Some(named) = lookup(env::NEVA_RANK).filter(|named| !named.is_empty()) {
        // Absolute, because a name without a slash would be searched in PATH.
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

/// Calls [`find`] for this process. Cargo puts examples into a subfolder of the programs' folder.
pub(crate) fn find_here() -> Result<PathBuf, RunError> {
    let exe = std::env::current_exe().ok();
    let beside = exe.as_deref().and_then(Path::parent);
    let above = beside.filter(|folder| folder.ends_with("examples") && !folder.join(name()).is_file());
    find(crate::environment::variable, above.and_then(Path::parent).or(beside))
}

/// Returns the start of the hash of the file `program`, which is computed once; `None` if it cannot be read.
pub(crate) fn hash(program: &Path) -> Option<String> {
    const LENGTH: usize = 16;
    static KNOWN: Mutex<BTreeMap<PathBuf, (SystemTime, String)>> = Mutex::new(BTreeMap::new());
    let modified = fs::metadata(program).and_then(|file| file.modified()).ok()?;
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, hash)) = known.get(program).filter(|(time, _)| *time == modified) {
        return Some(hash.clone());
    }
    let mut hasher = blake3::Hasher::new();
    hasher.update_mmap_rayon(program).ok()?;
    let hash = hasher.finalize().to_hex()[..LENGTH].to_owned();
    known.insert(program.to_owned(), (modified, hash.clone()));
    Some(hash)
}

/// Checks that `program` can start: the dynamic loader finds its libraries and symbols. Nothing of libtorch is initialised,
/// which would take longer than the rest of a launch. What the loader does not accept, or cannot know, [`version`] reports.
///
/// # Errors
/// As [`version`].
pub(crate) async fn check(program: &Path) -> Result<(), RunError> {
    if is_elf(program) && loads(program).await {
        return Ok(());
    }
    version(program).await.map(drop)
}

/// Returns whether `program` is an executable, and not a script.
fn is_elf(program: &Path) -> bool {
    let mut start = [0; ELF.len()];
    fs::File::open(program).and_then(|mut file| file.read_exact(&mut start)).is_ok() && start == ELF
}

/// Asks the dynamic loader about `program`, as `ldd -d` does.
async fn loads(program: &Path) -> bool {
    let output = Command::new(program)
        // A program that is linked statically runs instead.
        .arg("version")
        .env("LD_TRACE_LOADED_OBJECTS", "1")
        .env("LD_WARN", "1")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let Ok(Ok(output)) = timeout(VERSION_TIMEOUT, output).await else {
        return false;
    };
    // Undefined symbols are on standard error, missing libraries on standard output.
    output.status.success() && output.stderr.is_empty() && !String::from_utf8_lossy(&output.stdout).contains("not found")
}

/// Queries the version of `program`; a response also shows that libtorch was found.
///
/// # Errors
/// It does not start, fails, or prints something else.
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
    let output = timeout(VERSION_TIMEOUT, output)
        .await
        .map_err(|_| failed(format!("it did not respond within {} s", VERSION_TIMEOUT.as_secs())))?
        .map_err(|error| failed(error.to_string()))?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    if let Some(problem) = LoaderProblem::find(output.status.code(), stderr.lines()) {
        return Err(RunError::NoLibtorch {
            program: program.to_owned(),
            problem,
        });
    }
    if !output.status.success() {
        let last = stderr.lines().last().unwrap_or_default();
        return Err(failed(format!("{}: {last}", output.status)));
    }
    serde_json::from_slice(&output.stdout).map_err(|error| failed(format!("it did not print JSON: {error}")))
}
