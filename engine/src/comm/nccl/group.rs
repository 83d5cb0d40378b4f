//! Groups whose tensors lie on GPUs, and on the host beside.

use super::backend::{Backend, Call};
use super::communicator::{Communicator, transport};
use super::link::{HEADERS, Incoming, Outgoing};
use super::watch::Watch;
use crate::comm::collective::{Collective, CommError, Fabric, Pending, Reduce};
use neva_torch_ffi::Store;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tch::Tensor;

/// A rank with a GPU among others, and the threads that watch over its communicators.
///
/// Dropping it tells the other ranks that this one gave up, unless it was left with [`Self::leave`].
#[derive(Debug)]
pub struct NcclWorld<B: Backend> {
    watch: Arc<Watch<B>>,
    look: Option<JoinHandle<()>>,
    left: bool,
}

impl<B: Backend> NcclWorld<B> {
    /// The rank `rank`. Ids and words of the ranks go through `store`, which is this world's own. A call that is not
    /// over after `timeout` ends all.
    ///
    /// # Errors
    /// The store or the system failed.
    pub fn new(backend: B, store: &Store, rank: usize, timeout: Duration) -> Result<Self, CommError> {
        let failed = |reason: String| transport("world", "connect", reason);
        let own = || store.try_clone().map_err(|error| failed(error.to_string()));
        let watch = Arc::new(Watch::new(backend, own()?, own()?, rank, timeout));
        let thread = |name: &str, body: fn(Arc<Watch<B>>)| {
            let watch = watch.clone();
            let thread = std::thread::Builder::new().name(name.into()).spawn(move || body(watch));
            thread.map_err(|error| failed(error.to_string()))
        };
        let look = thread("nccl-look", |watch| watch.look())?;
        // Never waited for: the store may not answer any more.
        drop(thread("nccl-listen", |watch| watch.listen())?);
        Ok(Self {
            watch,
            look: Some(look),
            left: false,
        })
    }

    /// Makes groups out of those of `host`, which carries the host's tensors.
    pub fn over<'a>(&'a self, host: &'a dyn Fabric) -> NcclFabric<'a, B> {
        NcclFabric { world: self, host }
    }

    /// Ends the watch: whatever the others do now is no concern of this rank.
    pub fn leave(mut self) {
        self.left = true;
    }
}

impl<B: Backend> Drop for NcclWorld<B> {
    fn drop(&mut self) {
        self.watch.end();
        if let Some(look) = self.look.take() {
            // A panic there was printed.
            let _ = look.join();
        }
        if !self.left {
            self.watch.tell("it has ended".into());
        }
    }
}

/// Makes the groups of a [`NcclWorld`].
pub struct NcclFabric<'a, B: Backend> {
    world: &'a NcclWorld<B>,
    host: &'a dyn Fabric,
}

impl<B: Backend> Fabric for NcclFabric<'_, B> {
    fn rank(&self) -> usize {
        self.host.rank()
    }

    fn world(&self) -> usize {
        self.host.world()
    }

    fn group(&self, name: &str, members: &[usize]) -> Result<Arc<dyn Collective>, CommError> {
        Ok(Arc::new(self.unlinked(name, members)?))
    }

    fn ring(&self, name: &str, members: &[usize]) -> Result<Arc<dyn Collective>, CommError> {
        let mut group = self.unlinked(name, members)?;
        let (rank, size) = (group.rank(), group.size());
        let neighbours = (0..size).flat_map(|rank| [(rank, (rank + 1) % size), ((rank + 1) % size, rank)]);
        // Ascending, on every rank: the first link that is missing is one that both its ends are about to make.
        for (from, to) in neighbours.filter(|(from, to)| from != to).collect::<BTreeSet<_>>() {
            if rank != from && rank != to {
                continue;
            }
            let pair = [members[from], members[to]];
            let communicator = Communicator::form(&self.world.watch, &format!("{name}.{from}>{to}"), &pair, usize::from(rank == to))?;
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

impl<B: Backend> NcclFabric<'_, B> {
    fn unlinked(&self, name: &str, members: &[usize]) -> Result<Group<B>, CommError> {
        // Says who is no member, and who does not come.
        let host = self.host.group(name, members)?;
        let communicator = Communicator::form(&self.world.watch, name, members, host.rank())?;
        Ok(Group {
            host,
            communicator,
            outgoing: BTreeMap::new(),
            incoming: BTreeMap::new(),
        })
    }
}

/// A group: tensors of the GPU go through NCCL, those of the host through the host's group.
#[derive(Debug)]
struct Group<B: Backend> {
    host: Arc<dyn Collective>,
    communicator: Arc<Communicator<B>>,
    outgoing: BTreeMap<usize, Outgoing<B>>,
    incoming: BTreeMap<usize, Arc<Incoming<B>>>,
}

impl<B: Backend> Group<B> {
    fn carries(&self, tensor: &Tensor) -> bool {
        self.communicator.watch().backend.carries(tensor)
    }

    fn start(&self, call: &Call<'_>) -> Result<Pending, CommError> {
        // Nothing to carry, on all ranks alike.
        if call.tensors().iter().all(|tensor| tensor.numel() == 0) {
            return Ok(Pending::done());
        }
        let in_flight = self.communicator.begin(call)?;
        Ok(Pending::new(|| in_flight.wait()))
    }

    fn host_tag(&self, operation: &'static str, tag: u32) -> Result<u32, CommError> {
        if tag < HEADERS {
            return Ok(tag);
        }
        let reason = format!("tag {tag}: tags of tensors on the host go up to {}", HEADERS - 1);
        Err(transport(self.communicator.name(), operation, reason))
    }

    fn no_link(&self, operation: &'static str, peer: usize) -> CommError {
        let reason = format!(
            "ranks {} and {peer} have no link: GPUs send to their neighbours in a ring only",
            self.rank()
        );
        transport(self.communicator.name(), operation, reason)
    }
}

impl<B: Backend> Collective for Group<B> {
    fn rank(&self) -> usize {
        self.communicator.rank()
    }

    fn size(&self) -> usize {
        self.communicator.size()
    }

    fn start_all_reduce(&self, tensor: &Tensor, reduce: Reduce) -> Result<Pending, CommError> {
        if !self.carries(tensor) {
            return self.host.start_all_reduce(tensor, reduce);
        }
        self.start(&Call::AllReduce { tensor, reduce })
    }

    fn start_all_gather(&self, into: &Tensor, tensor: &Tensor) -> Result<Pending, CommError> {
        if !self.carries(tensor) {
            return self.host.start_all_gather(into, tensor);
        }
        self.start(&Call::AllGather { into, tensor })
    }

    fn start_reduce_scatter(&self, into: &Tensor, tensor: &Tensor) -> Result<Pending, CommError> {
        if !self.carries(tensor) {
            return self.host.start_reduce_scatter(into, tensor);
        }
        self.start(&Call::ReduceScatter { into, tensor })
    }

    fn start_broadcast(&self, tensor: &Tensor, root: usize) -> Result<Pending, CommError> {
        if !self.carries(tensor) {
            return self.host.start_broadcast(tensor, root);
        }
        self.start(&Call::Broadcast { tensor, root })
    }

    fn send(&self, tensor: &Tensor, to: usize, tag: u32) -> Result<Pending, CommError> {
        if !self.carries(tensor) {
            return self.host.send(tensor, to, self.host_tag("send", tag)?);
        }
        let link = self.outgoing.get(&to).ok_or_else(|| self.no_link("send", to))?;
        link.send(tensor, tag)
    }

    fn recv(&self, into: &Tensor, from: usize, tag: u32) -> Result<Pending, CommError> {
        if !self.carries(into) {
            return self.host.recv(into, from, self.host_tag("recv", tag)?);
        }
        let link = self.incoming.get(&from).ok_or_else(|| self.no_link("recv", from))?;
        link.recv(into, tag)
    }
}
