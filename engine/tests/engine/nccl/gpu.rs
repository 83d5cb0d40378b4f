//! Simulated NCCL library and GPU with CPU tensors. Ranks are threads.
//!
//! Like NCCL, it matches the calls of a communicator by the order in which each rank starts them, and runs a call once
//! its last rank has started it. The computing thread acts as libtorch's stream: it waits where that stream would wait.

use neva_engine::comm::{Backend, Call, Reduce};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use tch::{Device, Kind, Tensor};

/// State that all GPUs of a test share.
#[derive(Debug, Default)]
pub(crate) struct Simulation {
    comms: Mutex<BTreeMap<Vec<u8>, CommState>>,
    changed: Condvar,
    ids: AtomicU64,
    /// Number of calls started, by name.
    begun: Mutex<BTreeMap<&'static str, u64>>,
    /// Tensors that were dropped while a call read or wrote them.
    pub(crate) held: AtomicU64,
    /// Number of communicators that were destroyed.
    pub(crate) destroyed: AtomicU64,
    /// Number of communicators that were aborted.
    pub(crate) aborted: AtomicU64,
    /// Error of all communicators, if any.
    error: Mutex<Option<String>>,
}

#[derive(Debug, Default)]
struct CommState {
    joined: BTreeSet<usize>,
    size: usize,
    /// Calls by number, with the tensors of each rank.
    calls: BTreeMap<u64, BTreeMap<usize, Input>>,
    /// Ranks that have aborted.
    aborted: BTreeSet<usize>,
    /// Completed calls.
    completed: BTreeSet<u64>,
}

#[derive(Debug)]
struct Input {
    what: Operation,
    read: Tensor,
    written: Tensor,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    AllReduce(Reduce),
    AllGather,
    ReduceScatter,
    Broadcast(usize),
    Send,
    Recv,
}

impl Simulation {
    pub(crate) fn begun(&self, operation: &str) -> u64 {
        lock(&self.begun).get(operation).copied().unwrap_or(0)
    }

    pub(crate) fn fail(&self, reason: &str) {
        *lock(&self.error) = Some(reason.into());
    }
}

/// A rank's GPU.
#[derive(Debug)]
pub(crate) struct Gpu {
    simulation: Arc<Simulation>,
    /// Kind of tensors on this device; others count as CPU tensors.
    kinds: Option<Kind>,
    streams: Mutex<Vec<Vec<Op>>>,
}

/// A call in flight: communicator id, number, rank.
type Op = (Vec<u8>, u64, usize);

#[derive(Debug)]
pub(crate) struct Handle {
    id: Vec<u8>,
    rank: usize,
    begun: AtomicU64,
}

impl Gpu {
    pub(crate) fn new(simulation: &Arc<Simulation>) -> Self {
        Self {
            simulation: simulation.clone(),
            kinds: None,
            // Stream 0 is libtorch's.
            streams: Mutex::new(vec![Vec::new()]),
        }
    }

    /// Creates a GPU on which only tensors of one kind are.
    pub(crate) fn of(simulation: &Arc<Simulation>, kind: Kind) -> Self {
        Self {
            kinds: Some(kind),
            ..Self::new(simulation)
        }
    }

    fn wait(&self, ops: &[Op]) {
        let mut comms = lock(&self.simulation.comms);
        while !ops.iter().all(|op| is_complete(&comms, op)) {
            comms = self.simulation.changed.wait(comms).unwrap_or_else(PoisonError::into_inner);
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

    fn is_on_device(&self, tensor: &Tensor) -> bool {
        self.kinds.is_none_or(|kind| kind == tensor.kind())
    }

    fn unique_id(&self) -> Result<Vec<u8>, String> {
        Ok(self.simulation.ids.fetch_add(1, Ordering::Relaxed).to_le_bytes().to_vec())
    }

    fn init_rank(&self, id: &[u8], rank: usize, size: usize) -> Result<Handle, String> {
        let mut comms = lock(&self.simulation.comms);
        let comm = comms.entry(id.to_vec()).or_default();
        if !comm.joined.insert(rank) {
            return Err(format!("rank {rank} has joined already"));
        }
        comm.size = size;
        Ok(Handle {
            id: id.to_vec(),
            rank,
            begun: AtomicU64::new(0),
        })
    }

    fn is_ready(&self, communicator: &Handle) -> Result<bool, String> {
        if let Some(error) = &*lock(&self.simulation.error) {
            return Err(error.clone());
        }
        let comms = lock(&self.simulation.comms);
        Ok(comms.get(&communicator.id).is_some_and(|comm| comm.joined.len() == comm.size))
    }

    fn enqueue(&self, communicator: &Handle, call: &Call<'_>, stream: usize) -> Result<(), String> {
        let (what, read, written) = match *call {
            Call::AllReduce { tensor, reduce } => (Operation::AllReduce(reduce), tensor, tensor),
            Call::AllGather { into, tensor } => (Operation::AllGather, tensor, into),
            Call::ReduceScatter { into, tensor } => (Operation::ReduceScatter, tensor, into),
            Call::Broadcast { tensor, root } => (Operation::Broadcast(root), tensor, tensor),
            Call::Send { tensor, to: 1 } => (Operation::Send, tensor, tensor),
            Call::Recv { into, from: 0 } => (Operation::Recv, into, into),
            Call::Send { .. } | Call::Recv { .. } => return Err("a link goes from rank 0 to rank 1".into()),
        };
        *lock(&self.simulation.begun).entry(call.operation()).or_default() += 1;
        let inputs = Input {
            what,
            read: read.detach(),
            written: written.detach(),
        };
        let number = communicator.begun.fetch_add(1, Ordering::Relaxed);
        lock(&self.streams)[stream].push((communicator.id.clone(), number, communicator.rank));
        let mut comms = lock(&self.simulation.comms);
        let comm = comms.get_mut(&communicator.id).ok_or("there is no such communicator")?;
        let call = comm.calls.entry(number).or_default();
        call.insert(communicator.rank, inputs);
        if call.len() == comm.size {
            let call = comm.calls.remove(&number).unwrap();
            perform(&call.into_values().collect::<Vec<_>>())?;
            comm.completed.insert(number);
            self.simulation.changed.notify_all();
        }
        Ok(())
    }

    fn finalize(&self, _: &Handle) -> Result<(), String> {
        Ok(())
    }

    fn destroy(&self, _: Handle) {
        self.simulation.destroyed.fetch_add(1, Ordering::Relaxed);
    }

    fn abort(&self, communicator: Handle) {
        self.simulation.aborted.fetch_add(1, Ordering::Relaxed);
        let mut comms = lock(&self.simulation.comms);
        if let Some(comm) = comms.get_mut(&communicator.id) {
            comm.aborted.insert(communicator.rank);
        }
        self.simulation.changed.notify_all();
    }

    fn new_stream(&self) -> Result<usize, String> {
        let mut streams = lock(&self.streams);
        streams.push(Vec::new());
        Ok(streams.len() - 1)
    }

    fn current_stream(&self) -> Result<usize, String> {
        Ok(0)
    }

    fn record_event(&self, stream: usize) -> Result<Vec<Op>, String> {
        // A stream runs its calls in order, so the last one is enough.
        Ok(lock(&self.streams)[stream].last().cloned().into_iter().collect())
    }

    fn wait_event(&self, stream: usize, event: &Vec<Op>) -> Result<(), String> {
        // The thread is libtorch's stream, and its results are complete: others never wait for it.
        if stream == 0 {
            self.wait(event);
        }
        Ok(())
    }

    fn is_complete(&self, event: &Vec<Op>) -> Result<bool, String> {
        let comms = lock(&self.simulation.comms);
        Ok(event.iter().all(|op| is_complete(&comms, op)))
    }

    fn record_stream(&self, stream: usize, _: &Tensor) {
        assert_ne!(stream, 0, "a call is never on libtorch's own stream");
        self.simulation.held.fetch_add(1, Ordering::Relaxed);
    }
}

fn is_complete(comms: &BTreeMap<Vec<u8>, CommState>, (id, number, rank): &Op) -> bool {
    comms
        .get(id)
        .is_none_or(|comm| comm.completed.contains(number) || comm.aborted.contains(rank))
}

/// Runs a call with the inputs of its ranks, in rank order.
fn perform(inputs: &[Input]) -> Result<(), String> {
    let _no_grad = tch::no_grad_guard();
    let write = |into: &Tensor, from: &Tensor| into.shallow_clone().copy_(&from.view_as(into));
    let reads: Vec<_> = inputs.iter().map(|one| one.read.copy().flatten(0, -1)).collect();
    let sum = || reads.iter().skip(1).fold(reads[0].copy(), |sum, other| sum + other);
    let what = inputs[0].what;
    if let [Operation::Send, Operation::Recv] = inputs.iter().map(|one| one.what).collect::<Vec<_>>()[..] {
        if (inputs[0].read.kind(), inputs[0].read.numel()) != (inputs[1].written.kind(), inputs[1].written.numel()) {
            return Err("a receive of another size".into());
        }
        write(&inputs[1].written, &reads[0]);
        return Ok(());
    }
    if inputs.iter().any(|one| one.what != what) {
        return Err(format!("ranks call different things: {inputs:?}"));
    }
    for (rank, one) in inputs.iter().enumerate() {
        match what {
            Operation::AllReduce(Reduce::Sum) => write(&one.written, &sum()),
            Operation::AllReduce(Reduce::Max) => {
                let max = reads.iter().skip(1).fold(reads[0].copy(), |max, other| max.maximum(other));
                write(&one.written, &max);
            }
            Operation::AllGather => write(&one.written, &Tensor::cat(&reads, 0)),
            Operation::ReduceScatter => write(&one.written, &sum().chunk(inputs.len() as i64, 0)[rank]),
            Operation::Broadcast(root) => write(&one.written, &reads[root]),
            Operation::Send | Operation::Recv => return Err("both ends of a link do the same".into()),
        }
    }
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
