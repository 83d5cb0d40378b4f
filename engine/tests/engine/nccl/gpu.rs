//! A library and a GPU that are none, in NCCL's place: tensors of the host, ranks that are threads.
//!
//! As NCCL does, it pairs the calls of a communicator by the order in which each rank begins them, and does a call once
//! its last rank has begun it. A thread that computes stands for libtorch's stream: where that stream has to wait, the
//! thread waits.

use neva_engine::comm::{Backend, Call, Reduce};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use tch::{Device, Kind, Tensor};

/// What all GPUs of a test share.
#[derive(Debug, Default)]
pub(crate) struct Hall {
    rooms: Mutex<BTreeMap<Vec<u8>, Room>>,
    changed: Condvar,
    ids: AtomicU64,
    /// Calls that were begun, by name.
    begun: Mutex<BTreeMap<&'static str, u64>>,
    /// Tensors that were dropped while a call read or wrote them.
    pub(crate) kept: AtomicU64,
    /// How communicators ended.
    pub(crate) destroyed: AtomicU64,
    pub(crate) aborted: AtomicU64,
    /// Why communicators are broken.
    fault: Mutex<Option<String>>,
}

#[derive(Debug, Default)]
struct Room {
    here: BTreeSet<usize>,
    size: usize,
    /// Calls by number: what each rank brings.
    calls: BTreeMap<u64, BTreeMap<usize, Brought>>,
    /// Ranks that wait no more.
    aborted: BTreeSet<usize>,
    /// Calls that are over.
    over: BTreeSet<u64>,
}

#[derive(Debug)]
struct Brought {
    what: What,
    read: Tensor,
    written: Tensor,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    AllReduce(Reduce),
    AllGather,
    ReduceScatter,
    Broadcast(usize),
    Send,
    Recv,
}

impl Hall {
    pub(crate) fn begun(&self, operation: &str) -> u64 {
        lock(&self.begun).get(operation).copied().unwrap_or(0)
    }

    pub(crate) fn breaks(&self, reason: &str) {
        *lock(&self.fault) = Some(reason.into());
    }
}

/// A rank's GPU.
#[derive(Debug)]
pub(crate) struct Gpu {
    hall: Arc<Hall>,
    /// What it carries; the rest goes through the host.
    kinds: Option<Kind>,
    streams: Mutex<Vec<Vec<Op>>>,
}

/// A call on its way: room, number, rank.
type Op = (Vec<u8>, u64, usize);

#[derive(Debug)]
pub(crate) struct Handle {
    id: Vec<u8>,
    rank: usize,
    begun: AtomicU64,
}

impl Gpu {
    pub(crate) fn new(hall: &Arc<Hall>) -> Self {
        Self {
            hall: hall.clone(),
            kinds: None,
            // Stream 0 is libtorch's.
            streams: Mutex::new(vec![Vec::new()]),
        }
    }

    /// Carries tensors of one kind alone.
    pub(crate) fn of(hall: &Arc<Hall>, kind: Kind) -> Self {
        Self {
            kinds: Some(kind),
            ..Self::new(hall)
        }
    }

    fn wait(&self, ops: &[Op]) {
        let mut rooms = lock(&self.hall.rooms);
        while !ops.iter().all(|op| is_over(&rooms, op)) {
            rooms = self.hall.changed.wait(rooms).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Backend for Gpu {
    type Communicator = Handle;
    type Stream = usize;
    type Event = Vec<Op>;

    fn device(&self) -> Device {
        Device::Cpu
    }

    fn carries(&self, tensor: &Tensor) -> bool {
        self.kinds.is_none_or(|kind| kind == tensor.kind())
    }

    fn unique_id(&self) -> Result<Vec<u8>, String> {
        Ok(self.hall.ids.fetch_add(1, Ordering::Relaxed).to_le_bytes().to_vec())
    }

    fn join(&self, id: &[u8], rank: usize, size: usize) -> Result<Handle, String> {
        let mut rooms = lock(&self.hall.rooms);
        let room = rooms.entry(id.to_vec()).or_default();
        if !room.here.insert(rank) {
            return Err(format!("rank {rank} is there already"));
        }
        room.size = size;
        Ok(Handle {
            id: id.to_vec(),
            rank,
            begun: AtomicU64::new(0),
        })
    }

    fn is_ready(&self, communicator: &Handle) -> Result<bool, String> {
        if let Some(fault) = &*lock(&self.hall.fault) {
            return Err(fault.clone());
        }
        let rooms = lock(&self.hall.rooms);
        Ok(rooms.get(&communicator.id).is_some_and(|room| room.here.len() == room.size))
    }

    fn issue(&self, communicator: &Handle, call: &Call<'_>, stream: usize) -> Result<(), String> {
        let (what, read, written) = match *call {
            Call::AllReduce { tensor, reduce } => (What::AllReduce(reduce), tensor, tensor),
            Call::AllGather { into, tensor } => (What::AllGather, tensor, into),
            Call::ReduceScatter { into, tensor } => (What::ReduceScatter, tensor, into),
            Call::Broadcast { tensor, root } => (What::Broadcast(root), tensor, tensor),
            Call::Send { tensor, to: 1 } => (What::Send, tensor, tensor),
            Call::Recv { into, from: 0 } => (What::Recv, into, into),
            Call::Send { .. } | Call::Recv { .. } => return Err("a link goes from rank 0 to rank 1".into()),
        };
        *lock(&self.hall.begun).entry(call.operation()).or_default() += 1;
        let brought = Brought {
            what,
            read: read.detach(),
            written: written.detach(),
        };
        let number = communicator.begun.fetch_add(1, Ordering::Relaxed);
        lock(&self.streams)[stream].push((communicator.id.clone(), number, communicator.rank));
        let mut rooms = lock(&self.hall.rooms);
        let room = rooms.get_mut(&communicator.id).ok_or("there is no such communicator")?;
        let call = room.calls.entry(number).or_default();
        call.insert(communicator.rank, brought);
        if call.len() == room.size {
            let call = room.calls.remove(&number).unwrap();
            perform(&call.into_values().collect::<Vec<_>>())?;
            room.over.insert(number);
            self.hall.changed.notify_all();
        }
        Ok(())
    }

    fn finalize(&self, _: &Handle) -> Result<(), String> {
        Ok(())
    }

    fn destroy(&self, _: Handle) {
        self.hall.destroyed.fetch_add(1, Ordering::Relaxed);
    }

    fn abort(&self, communicator: Handle) {
        self.hall.aborted.fetch_add(1, Ordering::Relaxed);
        let mut rooms = lock(&self.hall.rooms);
        if let Some(room) = rooms.get_mut(&communicator.id) {
            room.aborted.insert(communicator.rank);
        }
        self.hall.changed.notify_all();
    }

    fn new_stream(&self) -> Result<usize, String> {
        let mut streams = lock(&self.streams);
        streams.push(Vec::new());
        Ok(streams.len() - 1)
    }

    fn current_stream(&self) -> Result<usize, String> {
        Ok(0)
    }

    fn mark(&self, stream: usize) -> Result<Vec<Op>, String> {
        // A communicator has its own stream and does one call after the other: the last says all.
        Ok(lock(&self.streams)[stream].last().cloned().into_iter().collect())
    }

    fn order(&self, stream: usize, event: &Vec<Op>) -> Result<(), String> {
        // The thread is libtorch's stream, and what it has computed is there: others never wait for it.
        if stream == 0 {
            self.wait(event);
        }
        Ok(())
    }

    fn is_over(&self, event: &Vec<Op>) -> Result<bool, String> {
        let rooms = lock(&self.hall.rooms);
        Ok(event.iter().all(|op| is_over(&rooms, op)))
    }

    fn keep(&self, stream: usize, _: &Tensor) {
        assert_ne!(stream, 0, "a call is never on libtorch's own stream");
        self.hall.kept.fetch_add(1, Ordering::Relaxed);
    }
}

fn is_over(rooms: &BTreeMap<Vec<u8>, Room>, (id, number, rank): &Op) -> bool {
    rooms
        .get(id)
        .is_none_or(|room| room.over.contains(number) || room.aborted.contains(rank))
}

/// Does a call with what its ranks bring, by rank.
fn perform(brought: &[Brought]) -> Result<(), String> {
    let _no_grad = tch::no_grad_guard();
    let write = |into: &Tensor, from: &Tensor| into.shallow_clone().copy_(&from.view_as(into));
    let reads: Vec<_> = brought.iter().map(|one| one.read.copy().flatten(0, -1)).collect();
    let sum = || reads.iter().skip(1).fold(reads[0].copy(), |sum, other| sum + other);
    let what = brought[0].what;
    if let [What::Send, What::Recv] = brought.iter().map(|one| one.what).collect::<Vec<_>>()[..] {
        if (brought[0].read.kind(), brought[0].read.numel()) != (brought[1].written.kind(), brought[1].written.numel()) {
            return Err("a receive of another size".into());
        }
        write(&brought[1].written, &reads[0]);
        return Ok(());
    }
    if brought.iter().any(|one| one.what != what) {
        return Err(format!("ranks call different things: {brought:?}"));
    }
    for (rank, one) in brought.iter().enumerate() {
        match what {
            What::AllReduce(Reduce::Sum) => write(&one.written, &sum()),
            What::AllReduce(Reduce::Max) => {
                let max = reads.iter().skip(1).fold(reads[0].copy(), |max, other| max.maximum(other));
                write(&one.written, &max);
            }
            What::AllGather => write(&one.written, &Tensor::cat(&reads, 0)),
            What::ReduceScatter => write(&one.written, &sum().chunk(brought.len() as i64, 0)[rank]),
            What::Broadcast(root) => write(&one.written, &reads[root]),
            What::Send | What::Recv => return Err("both ends of a link do the same".into()),
        }
    }
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
