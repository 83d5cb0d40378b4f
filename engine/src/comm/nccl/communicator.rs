//! NCCL communicator with its own stream. Creation and calls have a deadline; it is always finalized or aborted.

use super::backend::{Backend, Call};
use super::watchdog::{Fault, Monitored, Overdue, Watchdog, lock};
use crate::comm::CommError;
use crate::comm::process_group::describe;
use neva_torch_ffi::Error as FfiError;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, TryLockError};
use std::time::{Duration, Instant};
use tch::Tensor;

/// Longest time to finalize a communicator.
const FINALIZE_TIMEOUT: Duration = Duration::from_secs(5);

/// A communicator, its stream, and its calls in flight.
#[derive(Debug)]
pub(super) struct Communicator<B: Backend> {
    watchdog: Arc<Watchdog<B>>,
    name: String,
    /// World ranks.
    members: Vec<usize>,
    rank: usize,
    stream: B::Stream,
    /// Empty after an abort. Locked while a call is enqueued, so that calls of several threads do not mix.
    handle: Mutex<Option<B::Communicator>>,
    started: AtomicU64,
    enqueued: Mutex<VecDeque<EnqueuedCall<B>>>,
}

/// A call that the GPU had not completed at the last check.
struct EnqueuedCall<B: Backend> {
    number: u64,
    operation: &'static str,
    what: String,
    since: Instant,
    done: Arc<B::Event>,
}

impl<B: Backend> std::fmt::Debug for EnqueuedCall<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "call {}: {} of {}", self.number, self.operation, self.what)
    }
}

impl<B: Backend> Communicator<B> {
    /// Creates the communicator of `members` (world ranks; this one is number `rank`). The first member creates the id
    /// and publishes it in the store.
    ///
    /// # Errors
    /// NCCL failed, or a rank did not arrive in time: the ranks that had arrived are listed.
    pub(super) fn form(watchdog: &Arc<Watchdog<B>>, name: &str, members: &[usize], rank: usize) -> Result<Arc<Self>, CommError> {
        const OPERATION: &str = "connect";
        watchdog.check(name, OPERATION)?;
        let failed = |reason| transport(name, OPERATION, reason);
        let (begun, store) = (Instant::now(), &watchdog.store);
        let joined_key = |rank: usize| format!("{name}/joined/{rank}");
        let deadline = || CommError::Deadline {
            group: name.into(),
            operation: OPERATION,
            what: format!("{} ranks", members.len()),
            rank,
            waited: begun.elapsed(),
            arrived: {
                let arrived: Vec<_> = (0..members.len())
                    .filter(|rank| store.check(&[&joined_key(*rank)]).unwrap_or(false))
                    .collect();
                format!("of {} ranks only {arrived:?} arrived", members.len())
            },
        };
        let store_error = |error: FfiError| match error {
            FfiError::Deadline { .. } => deadline(),
            other => failed(other.to_string()),
        };
        store.set(&joined_key(rank), b"1").map_err(store_error)?;
        let key = format!("{name}/id");
        let id = if rank == 0 {
            let id = watchdog.backend.unique_id().map_err(failed)?;
            store.set(&key, &id).map_err(store_error)?;
            id
        } else {
            store.get(&key, watchdog.timeout).map_err(store_error)?
        };
        let stream = watchdog.backend.new_stream().map_err(failed)?;
        let handle = watchdog.backend.init_rank(&id, rank, members.len()).map_err(failed)?;
        if let Err(error) = wait_until_ready(watchdog, &handle, begun, watchdog.timeout, name, OPERATION) {
            watchdog.backend.abort(handle);
            return Err(error.unwrap_or_else(deadline));
        }
        let communicator = Arc::new(Self {
            watchdog: watchdog.clone(),
            name: name.into(),
            members: members.to_vec(),
            rank,
            stream,
            handle: Mutex::new(Some(handle)),
            started: AtomicU64::new(0),
            enqueued: Mutex::default(),
        });
        let monitored: Arc<dyn Monitored> = communicator.clone();
        watchdog.add(&monitored);
        Ok(communicator)
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn rank(&self) -> usize {
        self.rank
    }

    pub(super) fn size(&self) -> usize {
        self.members.len()
    }

    pub(super) fn watchdog(&self) -> &Arc<Watchdog<B>> {
        &self.watchdog
    }

    /// Records an event after the present work of this thread's stream.
    pub(super) fn now(&self) -> Result<B::Event, String> {
        let backend = &self.watchdog.backend;
        backend.record_event(backend.current_stream()?)
    }

    /// Starts a call after the present work of this thread's stream.
    pub(super) fn begin(&self, call: &Call<'_>) -> Result<NcclWork<B>, CommError> {
        let ready = self.now().map_err(|reason| transport(&self.name, call.operation(), reason))?;
        self.begin_after(&ready, call)
    }

    /// Starts a call after `ready`.
    pub(super) fn begin_after(&self, ready: &B::Event, call: &Call<'_>) -> Result<NcclWork<B>, CommError> {
        let (operation, since) = (call.operation(), Instant::now());
        let failed = |reason| transport(&self.name, operation, reason);
        self.watchdog.check(&self.name, operation)?;
        call.check(self.size()).map_err(failed)?;
        let mut slot = lock(&self.handle);
        let backend = &self.watchdog.backend;
        let Some(handle) = slot.as_ref() else {
            self.watchdog.check(&self.name, operation)?;
            return Err(failed("the communicator has ended".into()));
        };
        backend.wait_event(self.stream, ready).map_err(failed)?;
        let number = self.started.fetch_add(1, Ordering::AcqRel) + 1;
        backend.enqueue(handle, call, self.stream).map_err(failed)?;
        if let Err(error) = wait_until_ready(&self.watchdog, handle, since, self.watchdog.timeout, &self.name, operation) {
            slot.take().into_iter().for_each(|handle| backend.abort(handle));
            drop(slot);
            let overdue = || self.overdue(number, operation, describe(call.subject()), since.elapsed());
            return Err(error.unwrap_or_else(|| self.watchdog.report_overdue(overdue())));
        }
        let done = Arc::new(backend.record_event(self.stream).map_err(failed)?);
        lock(&self.enqueued).push_back(EnqueuedCall {
            number,
            operation,
            what: describe(call.subject()),
            since,
            done: done.clone(),
        });
        Ok(NcclWork {
            watchdog: self.watchdog.clone(),
            name: self.name.clone(),
            operation,
            stream: self.stream,
            done,
            tensors: call.tensors(),
        })
    }

    fn overdue(&self, number: u64, operation: &'static str, what: String, waited: Duration) -> Overdue {
        Overdue {
            group: self.name.clone(),
            members: self.members.clone(),
            rank: self.rank,
            number,
            operation,
            what,
            waited,
        }
    }
}

impl<B: Backend> Monitored for Communicator<B> {
    fn name(&self) -> &str {
        &self.name
    }

    /// Returns the number of calls started.
    fn started(&self) -> u64 {
        self.started.load(Ordering::Acquire)
    }

    /// Checks for an overdue call and a broken communicator.
    fn check(&self) -> Result<(), Fault> {
        let backend = &self.watchdog.backend;
        let slot = match self.handle.try_lock() {
            Ok(slot) => slot,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // A call is being enqueued and has its own deadline.
            Err(TryLockError::WouldBlock) => return Ok(()),
        };
        let Some(handle) = slot.as_ref() else { return Ok(()) };
        let broken = |operation, reason| Fault::Broken(transport(&self.name, operation, reason));
        let mut enqueued = lock(&self.enqueued);
        let last = enqueued.front().map_or("connect", |call| call.operation);
        backend.is_ready(handle).map_err(|reason| broken(last, reason))?;
        // A stream runs its calls in order.
        while let Some(call) = enqueued.front() {
            if !backend.is_complete(&call.done).map_err(|reason| broken(call.operation, reason))? {
                let waited = call.since.elapsed();
                if waited > self.watchdog.timeout {
                    let overdue = self.overdue(call.number, call.operation, call.what.clone(), waited);
                    return Err(Fault::Overdue(overdue));
                }
                break;
            }
            enqueued.pop_front();
        }
        Ok(())
    }

    /// Aborts the communicator. Kernels that wait for a peer end too.
    fn abort(&self) {
        if let Some(handle) = lock(&self.handle).take() {
            self.watchdog.backend.abort(handle);
        }
    }
}

impl<B: Backend> Drop for Communicator<B> {
    fn drop(&mut self) {
        let Some(handle) = lock(&self.handle).take() else { return };
        let backend = &self.watchdog.backend;
        // The last transfer may still be in flight: an abort would lose it.
        let finalized = !std::thread::panicking()
            && !self.watchdog.skip_finalize.load(Ordering::Relaxed)
            && backend.finalize(&handle).is_ok()
            && wait_until_ready(
                &self.watchdog,
                &handle,
                Instant::now(),
                FINALIZE_TIMEOUT.min(self.watchdog.timeout),
                &self.name,
                "leave",
            )
            .is_ok();
        if finalized {
            backend.destroy(handle);
        } else {
            self.watchdog.skip_finalize.store(true, Ordering::Relaxed);
            backend.abort(handle);
        }
    }
}

/// Work handle of a call. It holds the call's tensors until the computing stream waits for the call, or, if it is
/// dropped without a wait, until the call is complete.
pub(super) struct NcclWork<B: Backend> {
    watchdog: Arc<Watchdog<B>>,
    name: String,
    operation: &'static str,
    stream: B::Stream,
    done: Arc<B::Event>,
    tensors: Vec<Tensor>,
}

impl<B: Backend> NcclWork<B> {
    /// Makes later work of this thread's stream wait for the result. The host does not wait.
    pub(super) fn wait(mut self) -> Result<(), CommError> {
        let backend = &self.watchdog.backend;
        let ordered = backend.current_stream().and_then(|stream| backend.wait_event(stream, &self.done));
        ordered.map_err(|reason| transport(&self.name, self.operation, reason))?;
        self.watchdog.check(&self.name, self.operation)?;
        // From here on libtorch's own stream protects their memory.
        self.tensors.clear();
        Ok(())
    }
}

impl<B: Backend> Drop for NcclWork<B> {
    fn drop(&mut self) {
        for tensor in &self.tensors {
            self.watchdog.backend.record_stream(self.stream, tensor);
        }
    }
}

/// Waits until the last call is enqueued on the GPU. `Err(None)`: not in time.
fn wait_until_ready<B: Backend>(
    watchdog: &Watchdog<B>,
    handle: &B::Communicator,
    since: Instant,
    timeout: Duration,
    group: &str,
    operation: &'static str,
) -> Result<(), Option<CommError>> {
    let mut pause = Duration::from_micros(20);
    while !watchdog
        .backend
        .is_ready(handle)
        .map_err(|reason| Some(transport(group, operation, reason)))?
    {
        watchdog.check(group, operation).map_err(Some)?;
        if since.elapsed() > timeout {
            return Err(None);
        }
        // The check above reports a failure.
        let _ = watchdog.pause(pause);
        pause = (2 * pause).min(Duration::from_millis(10));
    }
    Ok(())
}

pub(super) fn transport(group: &str, operation: &'static str, reason: String) -> CommError {
    CommError::Transport {
        group: group.into(),
        operation,
        reason,
    }
}
