//! The programs of an experiment, as a file: which they were, so that a repetition can say what is another one.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{
    prepare::hash,
    record::{read_json, write_json_soon},
};
use crate::{
    environment,
    error::RunError,
    program::{self, RankVersion},
};

const PROGRAMS_FILE: &str = "programs.json";
const PROGRAMS_FORMAT: u32 = 1;

/// The programs that an experiment ran with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Programs {
    format: u32,
    /// The one that started it.
    launcher: Option<Program>,
    /// The rank program, where a task trains.
    rank: Option<Program>,
    /// What that says of itself.
    rank_version: Option<RankVersion>,
}

/// A program's file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Program {
    path: PathBuf,
    /// BLAKE3.
    hash: Option<String>,
}

impl Program {
    async fn of(path: PathBuf) -> Option<Self> {
        let program = tokio::task::spawn_blocking(move || Self { hash: hash(&path), path });
        program.await.ok()
    }
}

impl Programs {
    /// The programs as they are now. `trains`: the rank program is asked what it is, which has it load libtorch.
    pub(super) async fn now(trains: bool) -> Self {
        let launcher = async { Program::of(environment::program()?).await };
        let found = trains.then(|| program::find_here().ok()).flatten();
        let rank = async { Program::of(found.clone()?).await };
        let version = async { program::version(found.as_ref()?).await.ok() };
        let (launcher, rank, rank_version) = tokio::join!(launcher, rank, version);
        Self {
            format: PROGRAMS_FORMAT,
            launcher,
            rank,
            rank_version,
        }
    }

    /// What was kept in `folder`; nothing where the launcher did not come so far.
    pub(super) fn read(folder: &Path) -> Result<Option<Self>, RunError> {
        read_json(&folder.join(PROGRAMS_FILE), PROGRAMS_FORMAT)
    }

    pub(super) fn write(&self, folder: &Path) -> Result<(), RunError> {
        write_json_soon(&folder.join(PROGRAMS_FILE), self)
    }

    /// What is another one `now`, a sentence each.
    pub(super) fn differences(&self, now: &Self) -> Vec<String> {
        let mut found = Vec::new();
        if let (Some(then), Some(now)) = (&self.rank_version, &now.rank_version)
            && then != now
        {
            found.push(format!(
                "the rank program was {} on libtorch {}, and is {} on {}",
                then.version, then.libtorch, now.version, now.libtorch
            ));
        }
        let pairs = [("launcher", &self.launcher, &now.launcher), ("rank program", &self.rank, &now.rank)];
        for (what, then, now) in pairs {
            let (Some(then), Some(now)) = (then, now) else { continue };
            if then.hash != now.hash {
                found.push(format!(
                    "the {what} is another build: it was {} ({}), and is {} ({})",
                    then.path.display(),
                    short(then.hash.as_deref()),
                    now.path.display(),
                    short(now.hash.as_deref()),
                ));
            }
        }
        found
    }
}

/// The beginning of a hash, which is enough to tell two apart.
pub(super) fn short(hash: Option<&str>) -> &str {
    hash.map_or("none", |hash| hash.get(..12).unwrap_or(hash))
}
