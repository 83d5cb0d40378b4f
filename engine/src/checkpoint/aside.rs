//! The folder that ranks write a checkpoint into before it has its name. The first rank makes it and publishes it;
//! what passes between the ranks meanwhile are files in it.

use super::checksum::{Checksum, Checksums, SEAL};
use super::folder::{UNFINISHED, read_json};
use super::pieces::{Index, PIECES};
use super::pulse::{Pulse, Watch};
use super::safetensors_file::write_tensors;
use super::share::Share;
use crate::error::{EngineError, Result};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

/// File by which the ranks know that they see the same folder.
const TOKEN: &str = "token";
/// Longest time until a folder that one machine made is seen on another.
const SEEN_WITHIN: Duration = Duration::from_secs(3);
const POLL: Duration = Duration::from_millis(20);
/// For how long a rank of a run that has failed may give no sign of writing. A busy machine may hold one up for seconds.
const QUIET: Duration = Duration::from_secs(5);

/// How much time a save has.
#[derive(Debug, Default)]
pub(super) struct Patience {
    /// The run has failed: a rank that gives no sign is gone, or stopped, and not waited for.
    pub(super) failed: AtomicBool,
    /// Nobody waits any more.
    pub(super) abandoned: AtomicBool,
}

/// Where a checkpoint is written before it has its name.
#[derive(Debug, Clone)]
pub(super) struct Aside {
    pub(super) folder: PathBuf,
    marker: PathBuf,
}

/// What a rank wrote.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Written {
    pub(super) files: Checksums,
    pub(super) index: Index,
    /// Its files hold the whole checkpoint, and need no index.
    pub(super) alone: bool,
}

impl Aside {
    pub(super) fn of(parent: &Path, name: &str) -> Self {
        Self {
            folder: parent.join(format!(".{name}.writing")),
            marker: parent.join(format!("{name}{UNFINISHED}")),
        }
    }

    /// Makes the folder, in place of what an interrupted save left. Returns what the token says.
    pub(super) fn make(&self) -> Result<String> {
        let folder = &self.folder;
        if folder.exists() {
            std::fs::remove_dir_all(folder).map_err(EngineError::io("remove", folder))?;
        }
        std::fs::create_dir_all(folder).map_err(EngineError::io("create", folder))?;
        // Training waits for this: neither needs to survive a power failure.
        std::fs::write(&self.marker, b"").map_err(EngineError::io("write", &self.marker))?;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let token = format!("{}.{}", std::process::id(), now.as_nanos());
        let path = folder.join(TOKEN);
        std::fs::write(&path, token.as_bytes()).map_err(EngineError::io("write", &path))?;
        Ok(token)
    }

    /// Checks that this rank sees the folder that the first rank made.
    ///
    /// # Errors
    /// It does not: the folder is on a disk of one machine.
    #[expect(clippy::disallowed_methods, reason = "nothing tells of it: it is looked for, with a deadline")]
    pub(super) fn seen(&self, token: &str) -> Result<()> {
        let asked = Instant::now();
        let seen = || std::fs::read(self.folder.join(TOKEN)).is_ok_and(|found| found == token.as_bytes());
        while !seen() {
            if asked.elapsed() >= SEEN_WITHIN {
                return Err(EngineError::Machine(format!(
                    "this rank does not see {}, which the first rank made: the folder of a run must be on a disk that all its machines share",
                    self.folder.display()
                )));
            }
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    /// Writes what falls to this rank.
    pub(super) fn write(&self, share: Share) -> Result<Written> {
        let mut written = Written {
            files: Checksums::new(),
            index: share.index(),
            alone: share.files.as_ref().is_none_or(|files| files.alone),
        };
        let Some(names) = share.files else { return Ok(written) };
        for (name, parts) in [(names.model, share.model), (names.optimizer, share.optimizer)] {
            if parts.is_empty() {
                continue;
            }
            let path = self.folder.join(&name);
            write_tensors(&path, parts.into_iter().map(|part| (part.key(), part.tensor)).collect())?;
            written.files.insert(name, Checksum::of(&path)?);
        }
        Ok(written)
    }

    /// Writes what falls to this rank, and tells the first one.
    pub(super) fn write_for_first(&self, rank: usize, share: Share) -> Result<()> {
        let pulse = Pulse::start(self.pulse(rank));
        let written = json(&self.write(share)?)?;
        let (told, half) = (self.told(rank), self.told(rank).with_extension("writing"));
        write_file(&half, &written)?;
        // Once all have told, nothing of theirs may be left in the folder.
        drop(pulse);
        std::fs::rename(&half, &told).map_err(EngineError::io("write", &told))
    }

    /// Waits for what the `others` wrote.
    ///
    /// # Errors
    /// One of them does not tell before the deadline, or the save was abandoned.
    #[expect(clippy::disallowed_methods, reason = "nothing tells of it: it is looked for, with a deadline")]
    pub(super) fn collect(&self, others: &[usize], timeout: Duration, patience: &Patience) -> Result<Vec<Written>> {
        let asked = Instant::now();
        let collect = |rank: &usize| {
            let (told, pulse) = (self.told(*rank), self.pulse(*rank));
            let mut watch = None;
            while !told.exists() {
                let failed = patience.failed.load(Ordering::Relaxed);
                let gone = failed && watch.get_or_insert_with(Watch::new).quiet(&pulse) >= QUIET;
                if gone || patience.abandoned.load(Ordering::Relaxed) {
                    return Err(EngineError::Machine(format!(
                        "the save was abandoned before rank {rank} had written its part"
                    )));
                }
                if asked.elapsed() >= timeout {
                    return Err(EngineError::Machine(format!(
                        "rank {rank} has not written its part of the checkpoint in {} after {:.0} s",
                        self.folder.display(),
                        timeout.as_secs_f64()
                    )));
                }
                std::thread::sleep(POLL);
            }
            let written = read_json(&told)?;
            std::fs::remove_file(&told).map_err(EngineError::io("remove", &told))?;
            Ok(written)
        };
        others.iter().map(collect).collect()
    }

    fn pulse(&self, rank: usize) -> PathBuf {
        self.folder.join(format!("writes-{rank:05}"))
    }

    fn told(&self, rank: usize) -> PathBuf {
        self.folder.join(format!("written-{rank:05}.json"))
    }

    /// Writes a file that the first rank adds.
    pub(super) fn add(&self, files: &mut Checksums, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.folder.join(name);
        write_file(&path, bytes)?;
        files.insert(name.to_owned(), Checksum::of(&path)?);
        Ok(())
    }

    /// Writes the index of what several ranks wrote.
    pub(super) fn add_index(&self, files: &mut Checksums, index: &Index) -> Result<()> {
        let bytes = serde_json::to_vec(index).map_err(|error| EngineError::Bug(format!("cannot be written as JSON: {error}")))?;
        self.add(files, PIECES, &bytes)
    }

    /// Writes the table of all files, and its seal.
    pub(super) fn seal(&self, state: &impl Serialize) -> Result<()> {
        let state = json(state)?;
        write_file(&self.folder.join("checkpoint.json"), &state)?;
        write_file(&self.folder.join(SEAL), blake3::hash(&state).to_hex().as_bytes())
    }

    /// Gives the checkpoint its name: from this moment on it is there.
    pub(super) fn publish(&self, target: &Path) -> Result<()> {
        let aside = &self.folder;
        let token = aside.join(TOKEN);
        std::fs::remove_file(&token).map_err(EngineError::io("remove", &token))?;
        std::fs::remove_file(&self.marker).map_err(EngineError::io("remove", &self.marker))?;
        if target.is_dir() {
            // The same step was saved before (a run that went on from an older checkpoint). The two change places
            // in one step of the file system: there is a whole checkpoint of that name at every moment.
            match renameat_with(CWD, aside, CWD, target, RenameFlags::EXCHANGE) {
                Ok(()) => std::fs::remove_dir_all(aside).map_err(EngineError::io("remove", aside))?,
                // Some network file systems cannot; there the name is free for a moment.
                Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                    std::fs::remove_dir_all(target).map_err(EngineError::io("replace", target))?;
                    std::fs::rename(aside, target).map_err(EngineError::io("write", target))?;
                }
                Err(error) => return Err(EngineError::io("replace", target)(error.into())),
            }
        } else {
            std::fs::rename(aside, target).map_err(EngineError::io("write", target))?;
        }
        // The rename itself must reach the disk.
        let parent = target.parent().unwrap_or(target);
        File::open(parent)
            .and_then(|folder| folder.sync_all())
            .map_err(EngineError::io("write", parent))
    }

    /// Frees the disk after a failure, which is the one to report.
    pub(super) fn remove(&self) {
        let _ = std::fs::remove_dir_all(&self.folder);
        let _ = std::fs::remove_file(&self.marker);
    }
}

/// A value as readable JSON.
pub(super) fn json(value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec_pretty(value).map_err(|error| EngineError::Bug(format!("cannot be written as JSON: {error}")))
}

fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || {
        let mut file = File::create(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(EngineError::io("write", path))
}
