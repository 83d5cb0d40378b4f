//! Record of the programs of an experiment, so that a rerun can report which of them have changed.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{
    prepare::hash,
    record::{read_json, write_json_unsynced},
};
use crate::{
    environment,
    error::RunError,
    program::{self, RankVersion},
};

const PROGRAMS_FILE: &str = "programs.json";
const PROGRAMS_FORMAT: u32 = 1;

/// The programs that ran an experiment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Programs {
    format: u32,
    /// The program that started it.
    launcher: Option<Program>,
    /// The rank program, if a task trains.
    rank: Option<Program>,
    /// Version that the rank program reports.
    rank_version: Option<RankVersion>,
}

/// The file of a program.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Program {
    path: PathBuf,
    /// BLAKE3 hash.
    hash: Option<String>,
}

impl Program {
    async fn read(path: PathBuf) -> Option<Self> {
        let program = tokio::task::spawn_blocking(move || Self { hash: hash(&path), path });
        program.await.ok()
    }
}

impl Programs {
    /// Returns the current programs. With `trains`, runs the rank program for its version, which loads libtorch.
    pub(super) async fn current(trains: bool) -> Self {
        let launcher = async { Program::read(environment::program()?).await };
        let found = trains.then(|| program::find_here().ok()).flatten();
        let rank = async { Program::read(found.clone()?).await };
        let version = async { program::version(found.as_ref()?).await.ok() };
        let (launcher, rank, rank_version) = tokio::join!(launcher, rank, version);
        Self {
            format: PROGRAMS_FORMAT,
            launcher,
            rank,
            rank_version,
        }
    }

    /// Reads the record in `folder`; `None` if the launcher did not write it.
    pub(super) fn read(folder: &Path) -> Result<Option<Self>, RunError> {
        read_json(&folder.join(PROGRAMS_FILE), PROGRAMS_FORMAT)
    }

    pub(super) fn write(&self, folder: &Path) -> Result<(), RunError> {
        write_json_unsynced(&folder.join(PROGRAMS_FILE), self)
    }

    /// Returns a sentence for each program that differs `now`.
    pub(super) fn differences(&self, now: &Self) -> Vec<String> {
        let mut found = Vec::new();
        if let (Some(then), Some(now)) = (&self.rank_version, &now.rank_version)
            && then != now
        {
            found.push(format!(
                "the rank program was {} with libtorch {}, and is {} with {}",
                then.version, then.libtorch, now.version, now.libtorch
            ));
        }
        let pairs = [("launcher", &self.launcher, &now.launcher), ("rank program", &self.rank, &now.rank)];
        for (what, then, now) in pairs {
            let (Some(then), Some(now)) = (then, now) else { continue };
            if then.hash != now.hash {
                found.push(format!(
                    "the {what} is a different build: it was {} ({}), and is {} ({})",
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

/// Returns the first characters of a hash, enough to distinguish two.
pub(super) fn short(hash: Option<&str>) -> &str {
    hash.map_or("none", |hash| hash.get(..12).unwrap_or(hash))
}
