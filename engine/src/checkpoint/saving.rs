//! A save under way: every rank writes its share on a thread of its own, the first one gives the checkpoint its name
//! when all have told it that they are done. The threads start no collective: training may go on meanwhile.

use super::aside::{Aside, Patience, json};
use super::host_memory::HostMemory;
use super::last::{hand_over, plain};
use super::retention::prune;
use super::save::{Artifacts, Snapshot, name};
use super::share::Share;
use super::state::{CHECKPOINT_FORMAT, CheckpointState};
use crate::comm::{Mesh, all_succeed, first_decides};
use crate::error::{EngineError, Result};
use neva_schemas::Run;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Longest time that a run which has failed waits for its last save: less than launchers give a rank to end.
const GRACE: Duration = Duration::from_secs(25);
/// How soon the first rank's thread is done when nobody waits any more, unless the disk holds it up.
const SOON: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_millis(20);

/// A checkpoint that is being written.
#[derive(Debug)]
pub struct Saving {
    first: bool,
    aside: Aside,
    thread: Option<JoinHandle<Result<PathBuf>>>,
    succeeded: Arc<AtomicBool>,
    patience: Arc<Patience>,
}

/// What the first rank adds to the ranks' shares.
struct Lead {
    aside: Aside,
    parent: PathBuf,
    target: PathBuf,
    others: Vec<usize>,
    run: Run,
    artifacts: Artifacts,
    /// Complete but for the files.
    state: CheckpointState,
    patience: Arc<Patience>,
}

impl Saving {
    /// Starts to write a checkpoint. Every rank calls it. With `memory`, weights and moments are copied there
    /// first: what happens to them afterwards does not matter. Without, they must rest until [`Self::finish`].
    ///
    /// # Errors
    /// The folder cannot be made, or is not the same one on all ranks; or a collective failed. Nothing is left behind.
    pub fn start(parent: &Path, snapshot: &Snapshot<'_>, memory: Option<&HostMemory>, mesh: &Mesh) -> Result<Self> {
        let name = name(snapshot);
        let aside = Aside::of(parent, &name);
        let token = first_decides(mesh, || aside.make().inspect_err(|_| aside.remove()))?;
        let started = Self::start_in(&aside, &token, parent.join(&name), snapshot, memory, mesh);
        if started.is_err() && mesh.is_first() {
            aside.remove();
        }
        started
    }

    fn start_in(
        aside: &Aside,
        token: &str,
        target: PathBuf,
        snapshot: &Snapshot<'_>,
        memory: Option<&HostMemory>,
        mesh: &Mesh,
    ) -> Result<Self> {
        let mut share = Share::of(snapshot, mesh)?;
        let copy = memory.map_or(Ok(()), |memory| share.copy_to_host(memory));
        all_succeed(mesh, copy.and_then(|()| aside.seen(token)))?;
        let (rank, first) = (mesh.world().rank(), mesh.is_first());
        let (succeeded, patience) = (Arc::<AtomicBool>::default(), Arc::<Patience>::default());
        let lead = first.then(|| Lead {
            aside: aside.clone(),
            parent: target.parent().unwrap_or(&target).to_owned(),
            target: target.clone(),
            others: share.writers.iter().copied().filter(|writer| *writer != rank).collect(),
            run: snapshot.run.clone(),
            artifacts: snapshot.artifacts.clone(),
            state: CheckpointState {
                format: CHECKPOINT_FORMAT,
                version: env!("CARGO_PKG_VERSION").into(),
                progress: snapshot.progress.clone(),
                base: snapshot.base.clone(),
                optimizer: !snapshot.run.finetune.log.ckpt.save_weights_only,
                files: Default::default(),
            },
            patience: patience.clone(),
        });
        let (own_aside, success) = (aside.clone(), succeeded.clone());
        let copies = memory.map(|memory| (memory.clone(), share.tensors()));
        let body = move || {
            let path = match lead {
                Some(lead) => lead.write(share)?,
                None => {
                    if share.files.is_some() {
                        own_aside.write_for_first(rank, share)?;
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
            aside: aside.clone(),
            thread: Some(thread),
            succeeded,
            patience,
        })
    }

    /// Whether it is time for [`Self::finish`], as far as this rank knows: the first one has published the checkpoint,
    /// or something failed.
    pub fn is_over(&self) -> bool {
        let ended = self.thread.as_ref().is_none_or(JoinHandle::is_finished);
        ended && (self.first || !self.succeeded.load(Ordering::Acquire))
    }

    /// Waits until the checkpoint has its name. Every rank calls it. Returns the folder.
    ///
    /// # Errors
    /// Any rank could not write its part, on all ranks; earlier checkpoints are as they were.
    pub fn finish(mut self, mesh: &Mesh) -> Result<PathBuf> {
        // The first rank's thread waits for the others, so it is not waited for here; but what it failed of is said.
        let ended = self.thread.as_ref().is_none_or(JoinHandle::is_finished);
        let mut published = None;
        let mine = if self.first && !ended {
            Ok(())
        } else {
            self.join().map(|path| published = Some(path))
        };
        let outcome = match all_succeed(mesh, mine) {
            Ok(()) => first_decides(mesh, || published.map_or_else(|| self.join(), Ok)),
            Err(error) => {
                self.patience.abandoned.store(true, Ordering::Relaxed);
                if self.first && self.thread.is_some() {
                    drop(self.join());
                }
                Err(error)
            }
        };
        // No rank writes any more: before, another one would have failed of a folder that is not there.
        if outcome.is_err() && self.first {
            self.aside.remove();
        }
        outcome
    }

    #[expect(clippy::disallowed_methods, reason = "nothing tells of it: it is looked for, with a deadline")]
    fn ends_within(&self, time: Duration) -> bool {
        let asked = Instant::now();
        let ended = || self.thread.as_ref().is_none_or(JoinHandle::is_finished);
        while !ended() && asked.elapsed() < time {
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

/// Of a run that failed: the last save may still come to its end, but it waits for no rank that is not there any more.
impl Drop for Saving {
    fn drop(&mut self) {
        if self.thread.is_none() {
            return;
        }
        self.patience.failed.store(true, Ordering::Relaxed);
        let mut ended = self.ends_within(GRACE);
        self.patience.abandoned.store(true, Ordering::Relaxed);
        ended |= self.first && self.ends_within(SOON);
        if !ended {
            tracing::warn!("the last checkpoint was not written: its disk is slow, or stuck");
        } else if let Err(error) = self.join() {
            tracing::warn!("the last checkpoint was not written: {error}");
            if self.first {
                self.aside.remove();
            }
        }
    }
}

/// A thread on every rank, or on none.
fn all_spawned<T>(mesh: &Mesh, thread: std::io::Result<JoinHandle<T>>) -> Result<JoinHandle<T>> {
    let failed = |error: std::io::Error| EngineError::Machine(format!("cannot start a thread that writes a checkpoint: {error}"));
    let (thread, mine) = match thread {
        Ok(thread) => (Some(thread), Ok(())),
        Err(error) => (None, Err(failed(error))),
    };
    all_succeed(mesh, mine)?;
    thread.ok_or_else(|| EngineError::Bug("a thread that was started is there".into()))
}

impl Lead {
    fn write(mut self, share: Share) -> Result<PathBuf> {
        let aside = &self.aside;
        let mut all = aside.write(share)?;
        for (name, bytes) in &self.artifacts {
            aside.add(&mut all.files, name, bytes)?;
        }
        aside.add(&mut all.files, "run.json", &json(&self.run)?)?;
        let timeout = Duration::from_secs(self.run.finetune.trainer.timeout_s);
        for mut written in aside.collect(&self.others, timeout, &self.patience)? {
            all.alone &= written.alone;
            all.files.append(&mut written.files);
            all.index.append(written.index);
        }
        if !all.alone {
            aside.add_index(&mut all.files, &all.index)?;
        }
        self.state.files = all.files;
        aside.seal(&self.state)?;
        let config = &self.run.finetune.log.ckpt;
        // The same step may have been saved before, and be the last one; what else has that name is in the way.
        let shown = if self.target.exists() { self.target } else { plain(&self.target) };
        aside.publish(&shown)?;
        let newest = hand_over(&shown, config.save_last);
        prune(&self.parent, config);
        Ok(newest)
    }
}
