//! A save in progress. Every rank writes its shard on its own thread; the first rank publishes the checkpoint once all
//! have reported. The threads start no collective, so training may continue meanwhile.

use super::host_memory::HostMemory;
use super::json::json;
use super::last_suffix::{move_last_suffix, without_suffix};
use super::retention::prune;
use super::shard::CheckpointShard;
use super::snapshot::{Artifacts, Snapshot, name};
use super::staging::{SaveStatus, StagingDir};
use super::state::{CHECKPOINT_FORMAT, CheckpointState};
use crate::comm::{Mesh, all_succeed, decide_on_first_rank};
use crate::error::{EngineError, Result};
use neva_schemas::Run;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Longest wait of a failed run for its last save: less than the grace period of launchers.
const GRACE: Duration = Duration::from_secs(25);
/// Time in which the first rank's thread ends after an abandoned save, unless the disk is slow.
const SOON: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_millis(20);

/// A checkpoint that is being written.
#[derive(Debug)]
pub struct Saving {
    first: bool,
    staging: StagingDir,
    thread: Option<JoinHandle<Result<PathBuf>>>,
    succeeded: Arc<AtomicBool>,
    status: Arc<SaveStatus>,
}

/// The first rank's work: it collects the shards of all ranks and publishes the checkpoint.
struct Coordinator {
    staging: StagingDir,
    parent: PathBuf,
    target: PathBuf,
    others: Vec<usize>,
    run: Run,
    artifacts: Artifacts,
    /// Complete except for `files`.
    state: CheckpointState,
    status: Arc<SaveStatus>,
}

impl Saving {
    /// Starts to write a checkpoint. Every rank calls it. With `memory`, weights and moments are copied there first and
    /// may change afterwards. Without it, they must not change until [`Self::finish`].
    ///
    /// # Errors
    /// The folder cannot be created, or is not the same on all ranks; or a collective failed. No file is left behind.
    pub fn start(parent: &Path, snapshot: &Snapshot<'_>, memory: Option<&HostMemory>, mesh: &Mesh) -> Result<Self> {
        let name = name(snapshot);
        let staging = StagingDir::of(parent, &name);
        let token = decide_on_first_rank(mesh, || staging.create().inspect_err(|_| staging.remove()))?;
        let started = Self::start_in(&staging, &token, parent.join(&name), snapshot, memory, mesh);
        if started.is_err() && mesh.is_first() {
            staging.remove();
        }
        started
    }

    fn start_in(
        staging: &StagingDir,
        token: &str,
        target: PathBuf,
        snapshot: &Snapshot<'_>,
        memory: Option<&HostMemory>,
        mesh: &Mesh,
    ) -> Result<Self> {
        let mut shard = CheckpointShard::of(snapshot, mesh)?;
        let copy = memory.map_or(Ok(()), |memory| shard.copy_to_host(memory));
        all_succeed(mesh, copy.and_then(|()| staging.wait_until_visible(token)))?;
        let (rank, first) = (mesh.world().rank(), mesh.is_first());
        let (succeeded, status) = (Arc::<AtomicBool>::default(), Arc::<SaveStatus>::default());
        let lead = first.then(|| Coordinator {
            staging: staging.clone(),
            parent: target.parent().unwrap_or(&target).to_owned(),
            target: target.clone(),
            others: shard.writers.iter().copied().filter(|writer| *writer != rank).collect(),
            run: snapshot.run.clone(),
            artifacts: snapshot.artifacts.clone(),
            state: CheckpointState {
                format: CHECKPOINT_FORMAT,
                version: env!("CARGO_PKG_VERSION").into(),
                progress: snapshot.progress.clone(),
                base: snapshot.base.clone(),
                optimizer: !snapshot.run.finetune.log.ckpt.save_weights_only,
                whole: false,
                files: Default::default(),
            },
            status: status.clone(),
        });
        let (own_staging, success) = (staging.clone(), succeeded.clone());
        let copies = memory.map(|memory| (memory.clone(), shard.copies()));
        let profiler = mesh.profiler().clone();
        let body = move || {
            let _write = profiler.span("write checkpoint");
            let path = match lead {
                Some(lead) => lead.write(shard)?,
                None => {
                    if shard.files.is_some() {
                        own_staging.write_and_report(rank, shard)?;
                    }
                    target
                }
            };
            if let Some((memory, copies)) = copies {
                memory.put_back(copies);
            }
            success.store(true, Ordering::Release);
            Ok(path)
        };
        let thread = std::thread::Builder::new().name("checkpoint".into()).spawn(body);
        let thread = all_spawned(mesh, thread)?;
        Ok(Self {
            first,
            staging: staging.clone(),
            thread: Some(thread),
            succeeded,
            status,
        })
    }

    /// Returns true if [`Self::finish`] need not wait, as far as this rank knows: the first rank has published the
    /// checkpoint, or the save failed.
    pub fn is_done(&self) -> bool {
        let ended = self.thread.as_ref().is_none_or(JoinHandle::is_finished);
        ended && (self.first || !self.succeeded.load(Ordering::Acquire))
    }

    /// Waits until the checkpoint is published. Every rank calls it. Returns the folder.
    ///
    /// # Errors
    /// Some rank could not write its shard; all ranks return the error. Earlier checkpoints are unchanged.
    pub fn finish(mut self, mesh: &Mesh) -> Result<PathBuf> {
        // The first rank's thread waits for the others, so it is not joined yet, unless it has failed.
        let ended = self.thread.as_ref().is_none_or(JoinHandle::is_finished);
        let mut published = None;
        let mine = if self.first && !ended {
            Ok(())
        } else {
            self.join().map(|path| published = Some(path))
        };
        let outcome = match all_succeed(mesh, mine) {
            Ok(()) => decide_on_first_rank(mesh, || published.map_or_else(|| self.join(), Ok)),
            Err(error) => {
                self.status.abandoned.store(true, Ordering::Relaxed);
                if self.first && self.thread.is_some() {
                    drop(self.join());
                }
                Err(error)
            }
        };
        // No rank writes any more: earlier, another rank would have failed on the missing folder.
        if outcome.is_err() && self.first {
            self.staging.remove();
        }
        outcome
    }

    #[expect(clippy::disallowed_methods, reason = "polls with a deadline: there is no event")]
    fn ends_within(&self, timeout: Duration) -> bool {
        let started = Instant::now();
        let ended = || self.thread.as_ref().is_none_or(JoinHandle::is_finished);
        while !ended() && started.elapsed() < timeout {
            std::thread::sleep(POLL);
        }
        ended()
    }

    fn join(&mut self) -> Result<PathBuf> {
        let thread = self
            .thread
            .take()
            .ok_or_else(|| EngineError::Bug("a save is waited for twice".into()))?;
        thread
            .join()
            .unwrap_or_else(|_| Err(EngineError::Bug("the thread that writes a checkpoint panicked".into())))
    }
}

/// Lets the last save of a failed run finish, without waiting for ranks that are gone.
impl Drop for Saving {
    fn drop(&mut self) {
        if self.thread.is_none() {
            return;
        }
        self.status.failed.store(true, Ordering::Relaxed);
        let mut ended = self.ends_within(GRACE);
        self.status.abandoned.store(true, Ordering::Relaxed);
        ended |= self.first && self.ends_within(SOON);
        if !ended {
            tracing::warn!("the last checkpoint was not written: its disk is slow or stuck");
        } else if let Err(error) = self.join() {
            tracing::warn!("the last checkpoint was not written: {error}");
            if self.first {
                self.staging.remove();
            }
        }
    }
}

/// Returns the thread if it was started on every rank.
fn all_spawned<T>(mesh: &Mesh, thread: std::io::Result<JoinHandle<T>>) -> Result<JoinHandle<T>> {
    let failed = |error: std::io::Error| EngineError::Machine(format!("cannot start a thread that writes a checkpoint: {error}"));
    let (thread, mine) = match thread {
        Ok(thread) => (Some(thread), Ok(())),
        Err(error) => (None, Err(failed(error))),
    };
    all_succeed(mesh, mine)?;
    thread.ok_or_else(|| EngineError::Bug("a started save has no thread".into()))
}

impl Coordinator {
    fn write(mut self, shard: CheckpointShard) -> Result<PathBuf> {
        let staging = &self.staging;
        let mut all = staging.write(shard)?;
        for (name, bytes) in &self.artifacts {
            staging.add(&mut all.files, name, bytes)?;
        }
        staging.add(&mut all.files, "run.json", &json(&self.run)?)?;
        let timeout = Duration::from_secs(self.run.finetune.trainer.timeout_s);
        for mut written in staging.collect(&self.others, timeout, &self.status)? {
            all.complete &= written.complete;
            all.files.append(&mut written.files);
            all.index.append(written.index);
        }
        if !all.complete {
            staging.add_index(&mut all.files, &all.index)?;
        }
        self.state.files = all.files;
        staging.seal(&self.state)?;
        let config = &self.run.finetune.log.ckpt;
        // The same step may have been saved before as the last one. Any other folder of that name is in the way.
        let published = if self.target.exists() {
            self.target
        } else {
            without_suffix(&self.target)
        };
        staging.publish(&published)?;
        let newest = move_last_suffix(&published, config.save_last);
        prune(&self.parent, config);
        Ok(newest)
    }
}
