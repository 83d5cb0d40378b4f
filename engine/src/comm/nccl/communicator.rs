//! One communicator of NCCL: formed with a deadline, its calls on a stream of its own, and ended in any case.

use super::backend::{Backend, Call};
use super::watch::{Overdue, Trouble, Watch, lock};
use crate::comm::CommError;
use crate::comm::collective::describe;
use neva_torch_ffi::Error as FfiError;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, TryLockError};
use std::time::{Duration, Instant};
use tch::Tensor;

/// Longest time that a communicator which is left takes to send its rest.
const FAREWELL: Duration = Duration::from_secs(5);

/// A communicator, its stream, and what is under way on it.
#[derive(Debug)]
pub(super) struct Communicator<B: Backend> {
    watch: Arc<Watch<B>>,
    name: String,
    /// World ranks.
    members: Vec<usize>,
    rank: usize,
    stream: B::Stream,
    /// Empty once it was aborted. Held while a call is begun, so that calls of several threads do not mix.
    handle: Mutex<Option<B::Communicator>>,
    started: AtomicU64,
    under_way: Mutex<VecDeque<UnderWay<B>>>,
}

/// A call that the GPU has not done when it was looked at last.
struct UnderWay<B: Backend> {
    number: u64,
    operation: &'static str,
    what: String,
    since: Instant,
    done: Arc<B::Event>,
}

impl<B: Backend> std::fmt::Debug for UnderWay<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "call {}: {} of {}", self.number, self.operation, self.what)
    }
}

impl<B: Backend> Communicator<B> {
    /// Meets the other `members` (world ranks, this one among them at place `rank`): the first makes the id, the store
    /// hands it out.
    ///
    /// # Errors
    /// NCCL failed, or somebody did not come in time: who had come is named.
    pub(super) fn form(watch: &Arc<Watch<B>>, name: &str, members: &[usize], rank: usize) -> Result<Arc<Self>, CommError> {
        const OPERATION: &str = "connect";
        watch.check(name, OPERATION)?;
        let failed = |reason| transport(name, OPERATION, reason);
        let (begun, store) = (Instant::now(), &watch.store);
        let here = |rank: usize| format!("{name}/here/{rank}");
        let late = || CommError::Deadline {
            group: name.into(),
            operation: OPERATION,
            what: format!("{} ranks", members.len()),
            rank,
            waited: begun.elapsed(),
            arrived: {
                let arrived: Vec<_> = (0..members.len())
                    .filter(|rank| store.check(&[&here(*rank)]).unwrap_or(false))
                    .collect();
                format!("of {} ranks only {arrived:?} arrived", members.len())
            },
        };
        let said = |error: FfiError| match error {
            FfiError::Deadline { .. } => late(),
            other => failed(other.to_string()),
        };
        store.set(&here(rank), b"1").map_err(said)?;
        let key = format!("{name}/id");
        let id = if rank == 0 {
            let id = watch.backend.unique_id().map_err(failed)?;
            store.set(&key, &id).map_err(said)?;
            id
        } else {
            store.get(&key, watch.timeout).map_err(said)?
        };
        let stream = watch.backend.new_stream().map_err(failed)?;
        let handle = watch.backend.join(&id, rank, members.len()).map_err(failed)?;
        if let Err(error) = settle(watch, &handle, begun, watch.timeout, name, OPERATION) {
            watch.backend.abort(handle);
            return Err(error.unwrap_or_else(late));
        }
        let communicator = Arc::new(Self {
            watch: watch.clone(),
            name: name.into(),
            members: members.to_vec(),
            rank,
            stream,
            handle: Mutex::new(Some(handle)),
            started: AtomicU64::new(0),
            under_way: Mutex::default(),
        });
        watch.add(&communicator);
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

    pub(super) fn watch(&self) -> &Arc<Watch<B>> {
        &self.watch
    }

    /// Number of calls begun.
    pub(super) fn started(&self) -> u64 {
        self.started.load(Ordering::Acquire)
    }

    /// The point behind what this thread has computed: what a call must not overtake.
    pub(super) fn now(&self) -> Result<B::Event, String> {
        let backend = &self.watch.backend;
        backend.mark(backend.current_stream()?)
    }

    /// Begins a call behind what this thread has computed.
    pub(super) fn begin(&self, call: &Call<'_>) -> Result<InFlight<B>, CommError> {
        let ready = self.now().map_err(|reason| transport(&self.name, call.operation(), reason))?;
        self.begin_after(&ready, call)
    }

    /// Begins a call behind `ready`.
    pub(super) fn begin_after(&self, ready: &B::Event, call: &Call<'_>) -> Result<InFlight<B>, CommError> {
        let (operation, since) = (call.operation(), Instant::now());
        let failed = |reason| transport(&self.name, operation, reason);
        self.watch.check(&self.name, operation)?;
        call.check(self.size()).map_err(failed)?;
        let mut place = lock(&self.handle);
        let backend = &self.watch.backend;
        let Some(handle) = place.as_ref() else {
            self.watch.check(&self.name, operation)?;
            return Err(failed("the communicator has ended".into()));
        };
        backend.order(self.stream, ready).map_err(failed)?;
        let number = self.started.fetch_add(1, Ordering::AcqRel) + 1;
        backend.issue(handle, call, self.stream).map_err(failed)?;
        if let Err(error) = settle(&self.watch, handle, since, self.watch.timeout, &self.name, operation) {
            place.take().into_iter().for_each(|handle| backend.abort(handle));
            drop(place);
            let overdue = || self.overdue(number, operation, describe(call.subject()), since.elapsed());
            return Err(error.unwrap_or_else(|| self.watch.raise(overdue())));
        }
        let done = Arc::new(backend.mark(self.stream).map_err(failed)?);
        lock(&self.under_way).push_back(UnderWay {
            number,
            operation,
            what: describe(call.subject()),
            since,
            done: done.clone(),
        });
        Ok(InFlight {
            watch: self.watch.clone(),
            name: self.name.clone(),
            operation,
            stream: self.stream,
            done,
            tensors: call.tensors(),
        })
    }

    /// Looks whether all is well.
    pub(super) fn look(&self) -> Result<(), Trouble> {
        let backend = &self.watch.backend;
        let place = match self.handle.try_lock() {
            Ok(place) => place,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // A call is begun just now, and keeps its own deadline.
            Err(TryLockError::WouldBlock) => return Ok(()),
        };
        let Some(handle) = place.as_ref() else { return Ok(()) };
        let broken = |operation, reason| Trouble::Broken(transport(&self.name, operation, reason));
        let mut under_way = lock(&self.under_way);
        let last = under_way.front().map_or("connect", |call| call.operation);
        backend.is_ready(handle).map_err(|reason| broken(last, reason))?;
        // A stream does one call after the other.
        while let Some(call) = under_way.front() {
            if !backend.is_over(&call.done).map_err(|reason| broken(call.operation, reason))? {
                let waited = call.since.elapsed();
                if waited > self.watch.timeout {
                    let overdue = self.overdue(call.number, call.operation, call.what.clone(), waited);
                    return Err(Trouble::Overdue(overdue));
                }
                break;
            }
            under_way.pop_front();
        }
        Ok(())
    }

    /// Ends it. What waits for a peer on the GPU ends too.
    pub(super) fn abort(&self) {
        if let Some(handle) = lock(&self.handle).take() {
            self.watch.backend.abort(handle);
        }
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

impl<B: Backend> Drop for Communicator<B> {
    fn drop(&mut self) {
        let Some(handle) = lock(&self.handle).take() else { return };
        let backend = &self.watch.backend;
        // What was sent last may still be on its way to a peer: an abort would lose it.
        let well = !std::thread::panicking()
            && !self.watch.hurried.load(Ordering::Relaxed)
            && backend.finalize(&handle).is_ok()
            && settle(
                &self.watch,
                &handle,
                Instant::now(),
                FAREWELL.min(self.watch.timeout),
                &self.name,
                "leave",
            )
            .is_ok();
        if well {
            backend.destroy(handle);
        } else {
            self.watch.hurried.store(true, Ordering::Relaxed);
            backend.abort(handle);
        }
    }
}

/// A call that goes on. Its tensors are kept until the stream that computes waits for it, or, where nobody waits, until
/// it is over.
pub(super) struct InFlight<B: Backend> {
    watch: Arc<Watch<B>>,
    name: String,
    operation: &'static str,
    stream: B::Stream,
    done: Arc<B::Event>,
    tensors: Vec<Tensor>,
}

impl<B: Backend> InFlight<B> {
    /// Lets what this thread computes from now on see the result. The host does not wait.
    pub(super) fn wait(mut self) -> Result<(), CommError> {
        let backend = &self.watch.backend;
        let ordered = backend.current_stream().and_then(|stream| backend.order(stream, &self.done));
        ordered.map_err(|reason| transport(&self.name, self.operation, reason))?;
        self.watch.check(&self.name, self.operation)?;
        // From here on libtorch's own stream guards their memory.
        self.tensors.clear();
        Ok(())
    }
}

impl<B: Backend> Drop for InFlight<B> {
    fn drop(&mut self) {
        for tensor in &self.tensors {
            self.watch.backend.keep(self.stream, tensor);
        }
    }
}

/// Waits until the GPU has what was begun. `Err(None)`: not in time.
fn settle<B: Backend>(
    watch: &Watch<B>,
    handle: &B::Communicator,
    since: Instant,
    timeout: Duration,
    group: &str,
    operation: &'static str,
) -> Result<(), Option<CommError>> {
    let mut pause = Duration::from_micros(20);
    while !watch
        .backend
        .is_ready(handle)
        .map_err(|reason| Some(transport(group, operation, reason)))?
    {
        watch.check(group, operation).map_err(Some)?;
        if since.elapsed() > timeout {
            return Err(None);
        }
        // The check above says what is wrong.
        let _ = watch.pause(pause);
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
