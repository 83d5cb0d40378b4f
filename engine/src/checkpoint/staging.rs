//! The staging directory of a checkpoint. The first rank creates and publishes it; ranks exchange reports as files in
//! it.

use super::checksum::{Checksum, Checksums, SEAL};
use super::durable::{publish_folder, sync_folder, write_file};
use super::folder::UNFINISHED;
use super::heartbeat::{Heartbeat, HeartbeatMonitor};
use super::json::{json, read_json};
use super::marker::lock_marker;
use super::safetensors_writer::write_values;
use super::shard::CheckpointShard;
use super::stored_tensors::{Index, PIECES};
use crate::error::{EngineError, Result};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

/// File that shows to the ranks that they see the same folder.
const TOKEN: &str = "token";
/// Longest time until a folder that one machine created is visible on another.
const VISIBILITY_TIMEOUT: Duration = Duration::from_secs(3);
const POLL: Duration = Duration::from_millis(20);
/// Longest time without a heartbeat from a rank of a failed run. A busy machine may delay a rank for seconds.
const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(5);

/// State of the run that limits how long a save may take.
#[derive(Debug, Default)]
pub(super) struct SaveStatus {
    /// The run has failed: ranks without a heartbeat are gone or stopped, and are not waited for.
    pub(super) failed: AtomicBool,
    /// No rank waits for the save any more.
    pub(super) abandoned: AtomicBool,
}

/// The directory that holds a checkpoint until it is published.
#[derive(Debug, Clone)]
pub(super) struct StagingDir {
    pub(super) folder: PathBuf,
    pub(super) marker: PathBuf,
    /// The locked marker, on the first rank. The system releases it when that rank is killed.
    lock: Arc<OnceLock<File>>,
}

/// A rank's report of the files that it wrote.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Written {
    pub(super) files: Checksums,
    pub(super) index: Index,
    /// Its files hold the whole checkpoint, and need no index.
    pub(super) complete: bool,
}

impl StagingDir {
    pub(super) fn of(parent: &Path, name: &str) -> Self {
        Self {
            folder: parent.join(format!(".{name}.writing")),
            marker: parent.join(format!("{name}{UNFINISHED}")),
            lock: Arc::default(),
        }
    }

    /// Creates the folder, and replaces the remains of an interrupted save. Returns the token.
    pub(super) fn create(&self) -> Result<String> {
        let folder = &self.folder;
        let parent = folder.parent().unwrap_or(folder);
        std::fs::create_dir_all(parent).map_err(EngineError::io("create", parent))?;
        // The marker exists before the folder, and outlives it. Training waits here: neither needs to survive a
        // power failure.
        let marker = lock_marker(&self.marker).map_err(EngineError::io("write", &self.marker))?;
        let _ = self.lock.set(marker);
        if folder.exists() {
            std::fs::remove_dir_all(folder).map_err(EngineError::io("remove", folder))?;
        }
        std::fs::create_dir_all(folder).map_err(EngineError::io("create", folder))?;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let token = format!("{}.{}", std::process::id(), now.as_nanos());
        let path = folder.join(TOKEN);
        std::fs::write(&path, token.as_bytes()).map_err(EngineError::io("write", &path))?;
        Ok(token)
    }

    /// Waits until this rank sees the folder that the first rank created.
    ///
    /// # Errors
    /// The folder does not appear: it is on a local disk of one machine.
    #[expect(clippy::disallowed_methods, reason = "polls with a deadline: there is no event")]
    pub(super) fn wait_until_visible(&self, token: &str) -> Result<()> {
        let started = Instant::now();
        let is_visible = || std::fs::read(self.folder.join(TOKEN)).is_ok_and(|found| found == token.as_bytes());
        while !is_visible() {
            if started.elapsed() >= VISIBILITY_TIMEOUT {
                return Err(EngineError::Machine(format!(
                    "this rank does not see {}, which the first rank created: the folder of a run must be on a disk that all its machines \
                     share",
                    self.folder.display()
                )));
            }
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    /// Writes this rank's shard.
    pub(super) fn write(&self, shard: CheckpointShard) -> Result<Written> {
        let mut written = Written {
            files: Checksums::new(),
            index: shard.index(),
            complete: shard.files.as_ref().is_none_or(|files| files.complete),
        };
        let Some(names) = shard.files else { return Ok(written) };
        for (name, parts) in [(names.model, shard.model), (names.optimizer, shard.optimizer)] {
            if parts.is_empty() {
                continue;
            }
            let path = self.folder.join(&name);
            write_values(&path, parts.into_iter().map(|part| (part.key(), part.values)).collect())?;
            written.files.insert(name, Checksum::of(&path)?);
        }
        Ok(written)
    }

    /// Writes this rank's shard, and reports it to the first rank.
    pub(super) fn write_and_report(&self, rank: usize, shard: CheckpointShard) -> Result<()> {
        let heartbeat = Heartbeat::start(self.heartbeat_file(rank));
        let written = json(&self.write(shard)?)?;
        let (report, half) = (self.report_file(rank), self.report_file(rank).with_extension("writing"));
        write_file(&half, &written)?;
        // Once all ranks have reported, none of their heartbeats may be left in the folder.
        drop(heartbeat);
        std::fs::rename(&half, &report).map_err(EngineError::io("write", &report))
    }

    /// Waits for the reports of the `others`.
    ///
    /// # Errors
    /// A rank does not report before the deadline, or the save was abandoned.
    #[expect(clippy::disallowed_methods, reason = "polls with a deadline: there is no event")]
    pub(super) fn collect(&self, others: &[usize], timeout: Duration, status: &SaveStatus) -> Result<Vec<Written>> {
        let started = Instant::now();
        let collect = |rank: &usize| {
            let (report, heartbeat) = (self.report_file(*rank), self.heartbeat_file(*rank));
            let mut monitor = None;
            while !report.exists() {
                let failed = status.failed.load(Ordering::Relaxed);
                let gone = failed && monitor.get_or_insert_with(HeartbeatMonitor::new).quiet(&heartbeat) >= HEARTBEAT_TIMEOUT;
                if gone || status.abandoned.load(Ordering::Relaxed) {
                    return Err(EngineError::Machine(format!(
                        "the save was abandoned before rank {rank} had written its shard"
                    )));
                }
                if started.elapsed() >= timeout {
                    return Err(EngineError::Machine(format!(
                        "rank {rank} has not written its shard of the checkpoint in {} after {:.0} s",
                        self.folder.display(),
                        timeout.as_secs_f64()
                    )));
                }
                std::thread::sleep(POLL);
            }
            let written = read_json(&report)?;
            std::fs::remove_file(&report).map_err(EngineError::io("remove", &report))?;
            Ok(written)
        };
        others.iter().map(collect).collect()
    }

    fn heartbeat_file(&self, rank: usize) -> PathBuf {
        self.folder.join(format!("writes-{rank:05}"))
    }

    fn report_file(&self, rank: usize) -> PathBuf {
        self.folder.join(format!("written-{rank:05}.json"))
    }

    /// Writes a file that the first rank adds.
    pub(super) fn add(&self, files: &mut Checksums, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.folder.join(name);
        write_file(&path, bytes)?;
        files.insert(name.to_owned(), Checksum::of(&path)?);
        Ok(())
    }

    /// Writes the index of the shards of several ranks.
    pub(super) fn add_index(&self, files: &mut Checksums, index: &Index) -> Result<()> {
        let bytes = serde_json::to_vec(index).map_err(|error| EngineError::Bug(format!("cannot be written as JSON: {error}")))?;
        self.add(files, PIECES, &bytes)
    }

    /// Writes the table of all files, and its checksum.
    pub(super) fn seal(&self, state: &impl Serialize) -> Result<()> {
        let state = json(state)?;
        write_file(&self.folder.join("checkpoint.json"), &state)?;
        write_file(&self.folder.join(SEAL), blake3::hash(&state).to_hex().as_bytes())
    }

    /// Renames the folder to `target`, which makes the checkpoint visible.
    pub(super) fn publish(&self, target: &Path) -> Result<()> {
        let staging = &self.folder;
        let token = staging.join(TOKEN);
        std::fs::remove_file(&token).map_err(EngineError::io("remove", &token))?;
        // The same step may have been saved before: a run that resumed from an older checkpoint.
        publish_folder(staging, target)?;
        std::fs::remove_file(&self.marker).map_err(EngineError::io("remove", &self.marker))?;
        sync_folder(target.parent().unwrap_or(target))
    }

    /// Frees the disk after a failure. Errors are ignored: the failure is the one to report.
    pub(super) fn remove(&self) {
        let _ = std::fs::remove_dir_all(&self.folder);
        let _ = std::fs::remove_file(&self.marker);
    }
}
