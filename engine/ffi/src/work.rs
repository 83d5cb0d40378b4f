//! A collective on its way.

use std::ptr::NonNull;
use std::time::Duration;

use tch::Tensor;

use crate::error::{Error, Result, millis};
use crate::sys::{self, CWork};

/// A started collective or transfer. Its tensors may be read or changed again after [`Work::wait`] only.
///
/// Holds them until it is dropped. Dropping it without waiting does not wait: a collective still takes
/// part to its end, a `send` or `recv` is withdrawn.
#[must_use = "a collective is complete only after `wait`"]
#[derive(Debug)]
pub struct Work {
    raw: NonNull<CWork>,
    op: &'static str,
    tensors: Vec<Tensor>,
    limit: Limit,
    finish: Finish,
}

/// The group's timeout, and who keeps it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Limit {
    /// libtorch, from when a collective begins.
    Collective(Duration),
    /// [`Work::wait`]: libtorch lets a transfer go on for ever.
    Transfer(Duration),
}

/// What is left to do here once the transfer is complete: Gloo scatters no sums and knows no average.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Finish {
    /// Copy the last tensor's elements from this one on into the first.
    pub(crate) part: Option<i64>,
    /// Divide the first tensor.
    pub(crate) divisor: Option<i64>,
}

// SAFETY: c10d's work objects are reference-counted atomically and lock their state.
unsafe impl Send for Work {}

impl Drop for Work {
    fn drop(&mut self) {
        // SAFETY: `raw` came from C++ and is freed only here. Nothing can be done about a failing destructor.
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

    /// Blocks until the operation is complete, at most for `deadline`. A second call returns at once.
    ///
    /// # Errors
    /// [`Error::Deadline`] when it is not complete by then, or the group's own timeout ran out; for a
    /// `send` or `recv` that closes the group's connections. [`Error::Torch`] when a peer went away.
    pub fn wait(&mut self, deadline: Duration) -> Result<()> {
        let (patience, after) = match self.limit {
            Limit::Collective(timeout) => (deadline, deadline.min(timeout)),
            Limit::Transfer(timeout) => (deadline.min(timeout), deadline.min(timeout)),
        };
        // SAFETY: `raw` is alive until `drop`.
        let status = unsafe { sys::neva_work_wait(self.raw.as_ptr(), millis(patience)) };
        status.check(self.op).map_err(|error| error.deadline(after, ""))?;
        let finish = std::mem::take(&mut self.finish);
        self.complete(finish).map_err(|error| Error::torch(self.op, &error))
    }

    fn complete(&mut self, finish: Finish) -> Result<(), tch::TchError> {
        let _no_grad = tch::no_grad_guard();
        if let (Some(start), [first, .., last]) = (finish.part, self.tensors.as_mut_slice()) {
            let length = i64::try_from(first.numel()).unwrap_or(i64::MAX);
            let part = last.f_flatten(0, -1)?.f_narrow(0, start, length)?.f_view_as(first)?;
            first.f_copy_(&part)?;
        }
        if let (Some(divisor), [first, ..]) = (finish.divisor, self.tensors.as_mut_slice()) {
            let _ = first.f_div_scalar_(divisor)?;
        }
        Ok(())
    }

    /// Whether the transfer is over, well or badly: [`Work::wait`] would not block. A `send` or `recv`
    /// says so only after it was waited for: c10d completes them there.
    pub fn is_completed(&self) -> Result<bool> {
        let mut completed = false;
        // SAFETY: `raw` is alive until `drop`; `completed` is a place for a bool.
        unsafe { sys::neva_work_is_completed(self.raw.as_ptr(), &raw mut completed) }.check(self.op)?;
        Ok(completed)
    }
}
