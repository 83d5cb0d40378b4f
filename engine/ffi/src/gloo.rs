//! c10d's Gloo process group: collectives between ranks on CPU, in threads or processes.
//!
//! Every call returns at once with a [`Work`]. All ranks of a group make the same collective calls in the
//! same order. Tensors are on the CPU and contiguous; an autograd history is neither read nor written.

mod arguments;

use std::ffi::{CString, c_int};
use std::ptr::{NonNull, null_mut};
use std::time::Duration;

use tch::{Device, Kind, Tensor};

use self::arguments::{check_count, check_memory, check_pair, check_reducible, check_rows, check_tensor};
use crate::error::{Error, Result, c_string, millis};
use crate::store::Store;
use crate::sys::{self, CGroup, CWork, Status};
use crate::tensors::pointer;
use crate::work::{Finish, Limit, Work};

/// Reduction of the values of all ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReduceOp {
    /// Sum.
    Sum,
    /// Minimum.
    Min,
    /// Maximum.
    Max,
    /// Mean; floating point only.
    Avg,
}

/// Address of this machine that the other ranks connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bind {
    /// The address of the machine's own host name, else the loopback address.
    Default,
    /// The address of a network interface, such as `eth0`.
    Interface(String),
    /// This host name or address.
    Hostname(String),
}

/// Options of a rank that joins a group.
#[derive(Debug, Clone)]
pub struct GlooOptions {
    /// Name of the group, different for each group over the same store.
    pub name: String,
    /// This rank's place in the group, from 0.
    pub rank: usize,
    /// Number of ranks.
    pub size: usize,
    /// Timeout of a collective that a peer does not join, and of the connection.
    pub timeout: Duration,
    /// Address for connections of the other ranks.
    pub bind: Bind,
    /// Compares operation, dtype and element count of all ranks before each collective, at the cost of a
    /// round trip. Without it a difference is not an error: Gloo aborts the process from its own thread.
    pub check: bool,
}

/// A member of a group of ranks that communicate through Gloo.
///
/// Dropping it waits for collectives in progress, at most for the group's timeout. After a failure call
/// [`GlooGroup::abort`] first; a panicking thread does so by itself.
#[derive(Debug)]
pub struct GlooGroup {
    raw: NonNull<CGroup>,
    options: GlooOptions,
}

// SAFETY: the group is reference-counted atomically, and may be used and freed on any thread.
unsafe impl Send for GlooGroup {}
// SAFETY: cpp/gloo.cpp serializes the calls of all threads.
unsafe impl Sync for GlooGroup {}

impl Drop for GlooGroup {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _closed = self.abort();
        }
        // SAFETY: `raw` came from C++ and is freed only here. Nothing can be done about a failing destructor.
        let _status = unsafe { sys::neva_gloo_free(self.raw.as_ptr()) };
    }
}

impl GlooGroup {
    /// Joins the group, and returns when this rank is connected to all others. The others may still be connecting to each
    /// other, and fail if this rank leaves now.
    ///
    /// # Errors
    /// [`Error::Deadline`] if a rank does not connect within the timeout.
    pub fn new(store: &Store, options: &GlooOptions) -> Result<Self> {
        let GlooOptions {
            name,
            rank,
            size,
            timeout,
            bind,
            ..
        } = options;
        if rank >= size {
            return Err(Error::Argument(format!("rank {rank} of a group of {size}: ranks count from 0")));
        }
        let (rank, size) = (to_int("rank", *rank)?, to_int("size", *size)?);
        let c_name = c_string("group", name)?;
        let (kind, address) = match bind {
            Bind::Default => (0, CString::default()),
            Bind::Interface(interface) => (1, c_string("interface", interface)?),
            Bind::Hostname(host) => (2, c_string("host", host)?),
        };
        let mut raw = null_mut();
        // SAFETY: the store and the strings live during the call; `raw` has room for one pointer.
        let status = unsafe {
            sys::neva_gloo_new(
                store.as_ptr(),
                c_name.as_ptr(),
                rank,
                size,
                millis(*timeout),
                kind,
                address.as_ptr(),
                &raw mut raw,
            )
        };
        const OP: &str = "connect a Gloo group";
        status
            .check(OP)
            .map_err(|error| error.deadline(*timeout, format!("rank {rank} of `{name}` did not meet all {size} ranks")))?;
        let raw = NonNull::new(raw).ok_or(Error::Torch {
            op: OP,
            message: "no group came back".into(),
        })?;
        Ok(Self {
            raw,
            options: options.clone(),
        })
    }

    /// Returns this rank's number in the group.
    pub fn rank(&self) -> usize {
        self.options.rank
    }

    /// Returns the number of ranks.
    pub fn size(&self) -> usize {
        self.options.size
    }

    /// Returns the timeout of a collective.
    pub fn timeout(&self) -> Duration {
        self.options.timeout
    }

    /// Closes this rank's connections. Operations in progress fail at once, here and on the ranks that wait for this
    /// rank, which would otherwise wait until their timeout. They abort in turn, so a failure reaches all ranks.
    /// Afterwards the group can only be dropped. A second call has no effect.
    pub fn abort(&self) -> Result<()> {
        let GlooOptions { rank, size, .. } = self.options;
        if size == 1 {
            return Ok(());
        }
        let peer = to_int("rank", if rank == 0 { 1 } else { 0 })?;
        // SAFETY: the group is alive; `peer` is another of its ranks.
        unsafe { sys::neva_gloo_abort(self.raw.as_ptr(), peer) }.check("abort")
    }

    /// Replaces `tensor` by the reduction over all ranks.
    pub fn all_reduce(&self, tensor: &Tensor, op: ReduceOp) -> Result<Work> {
        const OP: &str = "all_reduce";
        check_tensor(OP, tensor)?;
        check_reducible(OP, tensor, op)?;
        self.compare(OP, tensor.kind(), tensor.numel(), op as i64)?;
        let work = self.start(OP, vec![tensor.shallow_clone()], |group, out| {
            // SAFETY: `tensor` is a contiguous CPU tensor (checked) that the work holds.
            unsafe { sys::neva_gloo_all_reduce(group, pointer(tensor), gloo_op(op), out) }
        })?;
        Ok(work.then(Finish {
            shard_start: None,
            divisor: self.divisor(op),
        }))
    }

    /// Fills `output` with every rank's `input`, in the order of ranks: `size` times as many elements.
    pub fn all_gather_into(&self, output: &Tensor, input: &Tensor) -> Result<Work> {
        const OP: &str = "all_gather_into";
        check_pair(OP, output, input)?;
        check_count(OP, "output", output.numel(), "input", input.numel(), self.options.size)?;
        self.compare(OP, input.kind(), input.numel(), 0)?;
        self.all_gather_unchecked(OP, output, input)
    }

    /// Reduces every rank's `input` and writes this rank's shard of it (the rank-th of `size` equal ones)
    /// to `output`.
    ///
    /// Gloo as libtorch calls it has the traffic of an `all_reduce` of a copy of `input`.
    pub fn reduce_scatter(&self, output: &Tensor, input: &Tensor, op: ReduceOp) -> Result<Work> {
        const OP: &str = "reduce_scatter";
        check_pair(OP, output, input)?;
        check_reducible(OP, input, op)?;
        check_count(OP, "input", input.numel(), "output", output.numel(), self.options.size)?;
        self.compare(OP, input.kind(), input.numel(), op as i64)?;
        let whole = input.f_detach_copy().map_err(|error| Error::torch(OP, &error))?;
        let held = vec![output.detach(), whole.shallow_clone()];
        let work = self.start(OP, held, |group, out| {
            // SAFETY: `whole` is a fresh contiguous CPU tensor that the work holds.
            unsafe { sys::neva_gloo_all_reduce(group, pointer(&whole), gloo_op(op), out) }
        })?;
        let start = self.options.rank * output.numel();
        let shard_start = Some(i64::try_from(start).unwrap_or(i64::MAX));
        Ok(work.then(Finish {
            shard_start,
            divisor: self.divisor(op),
        }))
    }

    /// Replaces `tensor` by that of rank `root`.
    pub fn broadcast(&self, tensor: &Tensor, root: usize) -> Result<Work> {
        const OP: &str = "broadcast";
        check_tensor(OP, tensor)?;
        let root = self.peer(OP, root)?;
        self.compare(OP, tensor.kind(), tensor.numel(), i64::from(root))?;
        self.start(OP, vec![tensor.shallow_clone()], |group, out| {
            // SAFETY: `tensor` is a contiguous CPU tensor (checked) that the work holds.
            unsafe { sys::neva_gloo_broadcast(group, pointer(tensor), root, out) }
        })
    }

    /// Sends rank `i` the `i`-th block of `input`'s rows (of dimension 0), and receives from rank `i` the `i`-th block of
    /// `output`'s rows. The splits are the numbers of rows of each block; if both are empty, blocks are equal.
    pub fn all_to_all(&self, output: &Tensor, input: &Tensor, output_rows: &[i64], input_rows: &[i64]) -> Result<Work> {
        const OP: &str = "all_to_all";
        check_pair(OP, output, input)?;
        check_rows(OP, "output", output, output_rows, self.options.size)?;
        check_rows(OP, "input", input, input_rows, self.options.size)?;
        if output_rows.is_empty() != input_rows.is_empty() {
            return Err(Error::Argument(format!("{OP}: give the rows of both tensors, or of neither")));
        }
        if output.size().get(1..) != input.size().get(1..) {
            let (output, input) = (output.size(), input.size());
            return Err(Error::Argument(format!("{OP}: rows differ: output {output:?}, input {input:?}")));
        }
        // Uneven blocks differ between ranks by design: only the operation and dtype can be compared.
        let count = if input_rows.is_empty() { input.numel() } else { 0 };
        self.compare(OP, input.kind(), count, 0)?;
        self.start(OP, vec![output.shallow_clone(), input.shallow_clone()], |group, out| {
            // SAFETY: both are contiguous CPU tensors that the work holds; the rows of each side are as many
            // as there are ranks and sum to its first dimension, or both lists are empty (all checked).
            unsafe {
                sys::neva_gloo_all_to_all(
                    group,
                    pointer(output),
                    pointer(input),
                    output_rows.as_ptr(),
                    input_rows.as_ptr(),
                    input_rows.len(),
                    out,
                )
            }
        })
    }

    /// Sends `tensor` to rank `peer`, which receives it with the same `tag`.
    pub fn send(&self, tensor: &Tensor, peer: usize, tag: u32) -> Result<Work> {
        const OP: &str = "send";
        let (peer, tag) = self.check_transfer(OP, tensor, peer, tag)?;
        self.start(OP, vec![tensor.shallow_clone()], |group, out| {
            // SAFETY: `tensor` is a contiguous CPU tensor (checked) that the work holds.
            unsafe { sys::neva_gloo_send(group, pointer(tensor), peer, tag, out) }
        })
    }

    /// Receives `tensor` from rank `peer`, which sends it with the same `tag` and the same number of bytes.
    pub fn recv(&self, tensor: &Tensor, peer: usize, tag: u32) -> Result<Work> {
        const OP: &str = "recv";
        let (peer, tag) = self.check_transfer(OP, tensor, peer, tag)?;
        self.start(OP, vec![tensor.shallow_clone()], |group, out| {
            // SAFETY: `tensor` is a contiguous CPU tensor (checked) that the work holds.
            unsafe { sys::neva_gloo_recv(group, pointer(tensor), peer, tag, out) }
        })
    }

    /// Completes when all ranks have called it and their earlier collectives are complete.
    pub fn barrier(&self) -> Result<Work> {
        const OP: &str = "barrier";
        self.compare(OP, Kind::Uint8, 0, 0)?;
        // SAFETY: `group` is alive, `out` has room for one pointer.
        self.start(OP, vec![], |group, out| unsafe { sys::neva_gloo_barrier(group, out) })
    }

    fn start(&self, op: &'static str, tensors: Vec<Tensor>, call: impl FnOnce(*mut CGroup, *mut *mut CWork) -> Status) -> Result<Work> {
        let mut raw = null_mut();
        call(self.raw.as_ptr(), &raw mut raw)
            .check(op)
            .map_err(|error| error.deadline(self.options.timeout, ""))?;
        let raw = NonNull::new(raw).ok_or(Error::Torch {
            op,
            message: "no work came back".into(),
        })?;
        let timeout = self.options.timeout;
        let limit = if matches!(op, "send" | "recv") {
            Limit::Transfer(timeout)
        } else {
            Limit::Collective(timeout)
        };
        Ok(Work::new(raw, op, tensors, limit))
    }

    fn all_gather_unchecked(&self, op: &'static str, output: &Tensor, input: &Tensor) -> Result<Work> {
        let flat = |tensor: &Tensor| tensor.detach().f_view([-1]).map_err(|error| Error::torch(op, &error));
        // One dimension each: Gloo splits the output along its first one into tensors of the input's shape.
        let (output, input) = (flat(output)?, flat(input)?);
        let held = vec![output.shallow_clone(), input.shallow_clone()];
        self.start(op, held, |group, out| {
            // SAFETY: both are contiguous CPU tensors of one dtype that the work holds; the output is `size`
            // times as long (the callers checked).
            unsafe { sys::neva_gloo_all_gather(group, pointer(&output), pointer(&input), out) }
        })
    }

    /// With `check`, fails on all ranks unless all make the same call.
    fn compare(&self, op: &'static str, kind: Kind, count: usize, detail: i64) -> Result<()> {
        if !self.options.check {
            return Ok(());
        }
        let hash = op
            .bytes()
            .fold(0i64, |hash, byte| hash.wrapping_mul(31).wrapping_add(i64::from(byte)));
        let mine = [hash, kind as i64, i64::try_from(count).unwrap_or(i64::MAX), detail];
        let width = i64::try_from(mine.len() * self.options.size).unwrap_or(i64::MAX);
        let all = Tensor::zeros([width], (Kind::Int64, Device::Cpu));
        self.all_gather_unchecked("compare ranks", &all, &Tensor::from_slice(&mine))?
            .wait(self.options.timeout)?;
        let all: Vec<i64> = Vec::try_from(&all).map_err(|error| Error::torch(op, &error))?;
        if all.chunks(mine.len()).all(|other| other == mine) {
            return Ok(());
        }
        let seen: Vec<String> = all
            .chunks(mine.len())
            .enumerate()
            .map(|(rank, other)| {
                let same_call = if other[0] == hash { op } else { "another operation" };
                format!(
                    "rank {rank}: {same_call}, dtype number {}, {} elements, option {}",
                    other[1], other[2], other[3]
                )
            })
            .collect();
        Err(Error::Argument(format!(
            "{op} in group `{}`: ranks do not agree ({})",
            self.options.name,
            seen.join("; ")
        )))
    }

    /// Gloo has no average: it is a sum that is divided after the wait.
    fn divisor(&self, op: ReduceOp) -> Option<i64> {
        (op == ReduceOp::Avg).then(|| i64::try_from(self.options.size).unwrap_or(i64::MAX))
    }

    fn peer(&self, op: &str, rank: usize) -> Result<c_int> {
        let size = self.options.size;
        if rank >= size {
            return Err(Error::Argument(format!("{op}: no rank {rank} in a group of {size}")));
        }
        to_int("rank", rank)
    }

    fn check_transfer(&self, op: &'static str, tensor: &Tensor, peer: usize, tag: u32) -> Result<(c_int, c_int)> {
        check_memory(op, tensor)?;
        if peer == self.options.rank {
            return Err(Error::Argument(format!("{op}: rank {peer} to itself")));
        }
        // The greatest tag is that of `abort`.
        let tag = c_int::try_from(tag).ok().filter(|tag| *tag < c_int::MAX);
        let tag = tag.ok_or_else(|| Error::Argument(format!("{op}: tags go up to {}", c_int::MAX - 1)))?;
        Ok((self.peer(op, peer)?, tag))
    }
}

fn gloo_op(op: ReduceOp) -> i32 {
    match op {
        ReduceOp::Sum | ReduceOp::Avg => 0,
        ReduceOp::Min => 1,
        ReduceOp::Max => 2,
    }
}

fn to_int(what: &str, value: usize) -> Result<c_int> {
    c_int::try_from(value).map_err(|_| Error::Argument(format!("{what} {value} is above {}", c_int::MAX)))
}
