//! Process groups for tensors on GPUs (NCCL) and on the host (Gloo).

use super::backend::{Backend, Call};
use super::communicator::{Communicator, transport};
use super::link::{HEADERS, Incoming, Outgoing};
use super::watchdog::Watchdog;
use crate::comm::process_group::{ProcessGroup, ProcessGroupFactory, Reduce, Work};
use crate::comm_error::CommError;
use neva_torch_ffi::Store;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tch::Tensor;

/// NCCL communicators of a rank and their watchdog threads.
///
/// Dropping it notifies the other ranks that this one gave up, unless [`Self::leave`] was called.
#[derive(Debug)]
pub struct NcclWorld<B: Backend> {
    watchdog: Arc<Watchdog<B>>,
    watchdog_thread: Option<JoinHandle<()>>,
    left: bool,
}

impl<B: Backend> NcclWorld<B> {
    /// Creates the world of rank `rank`. Ids and alarms go through `store`, which nothing else uses. A call that is not
    /// complete after `timeout` aborts all communicators.
    ///
    /// # Errors
    /// The store or the system failed.
    pub fn new(backend: B, store: &Store, rank: usize, timeout: Duration) -> Result<Self, CommError> {
        let failed = |reason: String| transport("world", "connect", reason);
        let own = || store.try_clone().map_err(|error| failed(error.to_string()));
        let watchdog = Arc::new(Watchdog::new(backend, own()?, own()?, rank, timeout));
        let thread = |name: &str, body: fn(Arc<Watchdog<B>>)| {
            let watchdog = watchdog.clone();
            let thread = std::thread::Builder::new().name(name.into()).spawn(move || body(watchdog));
            thread.map_err(|error| failed(error.to_string()))
        };
        let watchdog_thread = thread("nccl-watchdog", |watchdog| watchdog.run())?;
        // Not joined: the store may not answer any more.
        drop(thread("nccl-alarms", |watchdog| watchdog.listen())?);
        Ok(Self {
            watchdog,
            watchdog_thread: Some(watchdog_thread),
            left: false,
        })
    }

    /// Returns a factory of groups that send CPU tensors through groups of `host`.
    pub fn over<'a>(&'a self, host: &'a dyn ProcessGroupFactory) -> NcclFactory<'a, B> {
        NcclFactory { world: self, host }
    }

    /// Ends the watchdog without notifying the other ranks.
    pub fn leave(mut self) {
        self.left = true;
    }
}

impl<B: Backend> Drop for NcclWorld<B> {
    fn drop(&mut self) {
        self.watchdog.end();
        if let Some(watchdog_thread) = self.watchdog_thread.take() {
            // A panic there was printed.
            let _ = watchdog_thread.join();
        }
        if !self.left {
            self.watchdog.notify("it has ended".into());
        }
    }
}

/// Factory of the process groups of an [`NcclWorld`].
pub struct NcclFactory<'a, B: Backend> {
    world: &'a NcclWorld<B>,
    host: &'a dyn ProcessGroupFactory,
}

impl<B: Backend> ProcessGroupFactory for NcclFactory<'_, B> {
    fn rank(&self) -> usize {
        self.host.rank()
    }

    fn world(&self) -> usize {
        self.host.world()
    }

    fn group(&self, name: &str, members: &[usize]) -> Result<Arc<dyn ProcessGroup>, CommError> {
        Ok(Arc::new(self.unlinked(name, members)?))
    }

    fn ring(&self, name: &str, members: &[usize]) -> Result<Arc<dyn ProcessGroup>, CommError> {
        let mut group = self.unlinked(name, members)?;
        let (rank, size) = (group.rank(), group.size());
        let neighbours = (0..size).flat_map(|rank| [(rank, (rank + 1) % size), ((rank + 1) % size, rank)]);
        // In ascending order on every rank, so that both ends of a link create it at the same time.
        for (from, to) in neighbours.filter(|(from, to)| from != to).collect::<BTreeSet<_>>() {
            if rank != from && rank != to {
                continue;
            }
            let pair = [members[from], members[to]];
            let communicator = Communicator::form(&self.world.watchdog, &format!("{name}.{from}>{to}"), &pair, usize::from(rank == to))?;
            let host = group.host.clone();
            if rank == from {
                group.outgoing.insert(to, Outgoing::new(communicator, host, to)?);
            } else {
                group.incoming.insert(from, Arc::new(Incoming::new(communicator, host, from)?));
            }
        }
        Ok(Arc::new(group))
    }
}

impl<B: Backend> NcclFactory<'_, B> {
    /// Creates a group without links between neighbours.
    fn unlinked(&self, name: &str, members: &[usize]) -> Result<Group<B>, CommError> {
        // Reports a rank that is no member and ranks that do not arrive.
        let host = self.host.group(name, members)?;
        let communicator = Communicator::form(&self.world.watchdog, name, members, host.rank())?;
        Ok(Group {
            host,
            communicator,
            outgoing: BTreeMap::new(),
            incoming: BTreeMap::new(),
        })
    }
}

/// A process group: tensors on the GPU go through NCCL, CPU tensors through the host's group.
#[derive(Debug)]
struct Group<B: Backend> {
    host: Arc<dyn ProcessGroup>,
    communicator: Arc<Communicator<B>>,
    outgoing: BTreeMap<usize, Outgoing<B>>,
    incoming: BTreeMap<usize, Arc<Incoming<B>>>,
}

impl<B: Backend> Group<B> {
    fn is_on_device(&self, tensor: &Tensor) -> bool {
        self.communicator.watchdog().backend.is_on_device(tensor)
    }

    fn start(&self, call: &Call<'_>) -> Result<Work, CommError> {
        // Empty on all ranks.
        if call.tensors().iter().all(|tensor| tensor.numel() == 0) {
            return Ok(Work::done());
        }
        let work = self.communicator.begin(call)?;
        Ok(Work::new(|| work.wait()))
    }

    fn host_tag(&self, operation: &'static str, tag: u32) -> Result<u32, CommError> {
        if tag < HEADERS {
            return Ok(tag);
        }
        let reason = format!("tag {tag}: tags of CPU tensors go up to {}", HEADERS - 1);
        Err(transport(self.communicator.name(), operation, reason))
    }

    fn no_link(&self, operation: &'static str, peer: usize) -> CommError {
        let reason = format!(
            "ranks {} and {peer} have no link: GPUs send only to their neighbours in a ring",
            self.rank()
        );
        transport(self.communicator.name(), operation, reason)
    }
}

impl<B: Backend> ProcessGroup for Group<B> {
    fn rank(&self) -> usize {
        self.communicator.rank()
    }

    fn size(&self) -> usize {
        self.communicator.size()
    }

    fn start_all_reduce(&self, tensor: &Tensor, reduce: Reduce) -> Result<Work, CommError> {
        if !self.is_on_device(tensor) {
            return self.host.start_all_reduce(tensor, reduce);
        }
        self.start(&Call::AllReduce { tensor, reduce })
    }

    fn start_all_gather(&self, into: &Tensor, tensor: &Tensor) -> Result<Work, CommError> {
        if !self.is_on_device(tensor) {
            return self.host.start_all_gather(into, tensor);
        }
        self.start(&Call::AllGather { into, tensor })
    }

    fn start_reduce_scatter(&self, into: &Tensor, tensor: &Tensor) -> Result<Work, CommError> {
        if !self.is_on_device(tensor) {
            return self.host.start_reduce_scatter(into, tensor);
        }
        self.start(&Call::ReduceScatter { into, tensor })
    }

    fn start_broadcast(&self, tensor: &Tensor, root: usize) -> Result<Work, CommError> {
        if !self.is_on_device(tensor) {
            return self.host.start_broadcast(tensor, root);
        }
        self.start(&Call::Broadcast { tensor, root })
    }

    fn send(&self, tensor: &Tensor, to: usize, tag: u32) -> Result<Work, CommError> {
        if !self.is_on_device(tensor) {
            return self.host.send(tensor, to, self.host_tag("send", tag)?);
        }
        let link = self.outgoing.get(&to).ok_or_else(|| self.no_link("send", to))?;
        link.send(tensor, tag)
    }

    fn recv(&self, into: &Tensor, from: usize, tag: u32) -> Result<Work, CommError> {
        if !self.is_on_device(into) {
            return self.host.recv(into, from, self.host_tag("recv", tag)?);
        }
        let link = self.incoming.get(&from).ok_or_else(|| self.no_link("recv", from))?;
        link.recv(into, tag)
    }
}
