//! Work handles of asynchronous collectives and transfers.

use std::ptr::NonNull;
use std::time::Duration;

use tch::Tensor;

use crate::error::{Error, Result, millis};
use crate::sys::{self, CWork};

/// Work handle of an asynchronous collective or transfer, as c10d's `Work`. Do not read or change its tensors before
/// [`Work::wait`] returns.
///
/// It keeps the tensors alive until it is dropped. Dropping it does not wait: a collective still runs to its end, a `send`
/// or `recv` is cancelled.
#[must_use = "a collective is complete only after `wait`"]
#[derive(Debug)]
pub struct Work {
    raw: NonNull<CWork>,
    op: &'static str,
    tensors: Vec<Tensor>,
    limit: Limit,
    finish: Finish,
}

/// Timeout of the group, by what enforces it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Limit {
    /// libtorch enforces it from the start of a collective.
    Collective(Duration),
    /// [`Work::wait`] enforces it, because libtorch has no timeout for transfers.
    Transfer(Duration),
}

/// Local work after a collective is complete: Gloo as libtorch calls it has no reduce-scatter and no average.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Finish {
    /// Start of the local shard in the last tensor; the shard is copied into the first tensor.
    pub(crate) shard_start: Option<i64>,
    /// Divisor of the first tensor.
    pub(crate) divisor: Option<i64>,
}

// SAFETY: c10d's work objects are reference-counted atomically and lock their state.
unsafe impl Send for Work {}

impl Drop for Work {
    fn drop(&mut self) {
        // SAFETY: `raw` came from C++ and is freed only here. The status is ignored: nothing can be done about it.
        let _status = unsafe { sys::neva_work_free(self.raw.as_ptr()) };
    }
}

impl Work {
    pub(crate) fn new(raw: NonNull<CWork>, op: &'static str, tensors: Vec<Tensor>, limit: Limit) -> Self {
        Self {
            raw,
            op,
            tensors,
            limit,
            finish: Finish::default(),
        }
    }

    pub(crate) fn then(mut self, finish: Finish) -> Self {
        self.finish = finish;
        self
    }

    /// Blocks until the operation is complete, at most for `deadline`. A second call returns immediately.
    ///
    /// # Errors
    /// Returns [`Error::Deadline`] after `deadline` or after the group's timeout; for a `send` or `recv` that closes the
    /// group's connections. Returns [`Error::Torch`] if a peer closed its connection.
    pub fn wait(&mut self, deadline: Duration) -> Result<()> {
        let (wait_timeout, after) = match self.limit {
            Limit::Collective(timeout) => (deadline, deadline.min(timeout)),
            Limit::Transfer(timeout) => (deadline.min(timeout), deadline.min(timeout)),
        };
        // SAFETY: `raw` is alive until `drop`.
        let status = unsafe { sys::neva_work_wait(self.raw.as_ptr(), millis(wait_timeout)) };
        status.check(self.op).map_err(|error| error.deadline(after, ""))?;
        let finish = std::mem::take(&mut self.finish);
        self.complete(finish).map_err(|error| Error::torch(self.op, &error))
    }

    fn complete(&mut self, finish: Finish) -> Result<(), tch::TchError> {
        let _no_grad = tch::no_grad_guard();
        if let (Some(start), [first, .., last]) = (finish.shard_start, self.tensors.as_mut_slice()) {
            let length = i64::try_from(first.numel()).unwrap_or(i64::MAX);
            let shard = last.f_flatten(0, -1)?.f_narrow(0, start, length)?.f_view_as(first)?;
            first.f_copy_(&shard)?;
        }
        if let (Some(divisor), [first, ..]) = (finish.divisor, self.tensors.as_mut_slice()) {
            let _ = first.f_div_scalar_(divisor)?;
        }
        Ok(())
    }

    /// Returns whether the operation succeeded or failed, so that [`Work::wait`] would not block. For a `send` or `recv` it
    /// is true only after a wait, because c10d completes them there.
    pub fn is_completed(&self) -> Result<bool> {
        let mut completed = false;
        // SAFETY: `raw` is alive until `drop`; `completed` has room for a bool.
        unsafe { sys::neva_work_is_completed(self.raw.as_ptr(), &raw mut completed) }.check(self.op)?;
        Ok(completed)
    }
}
