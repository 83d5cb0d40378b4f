//! Counts of the operators that libtorch dispatches.

use crate::error::Result;
use crate::sys;
use std::marker::PhantomData;

/// Counts the operators that libtorch dispatches on this thread: those of a forward pass, and on a CPU those of its backward
/// pass. An operator that calls others counts with them. The number is the same in every run, so a test can bound it.
#[derive(Debug)]
pub struct OperatorCount {
    handle: u64,
    /// The callback belongs to this thread.
    _thread: PhantomData<*const ()>,
}

impl OperatorCount {
    /// Starts to count. A thread has one count at a time.
    ///
    /// # Errors
    /// libtorch refused.
    pub fn start() -> Result<Self> {
        let mut handle = 0;
        // SAFETY: `handle` is valid to write to.
        unsafe { sys::neva_operators_start(&raw mut handle) }.check("count operators")?;
        Ok(Self {
            handle,
            _thread: PhantomData,
        })
    }

    /// Ends, and returns the number.
    ///
    /// # Errors
    /// libtorch refused.
    pub fn finish(self) -> Result<u64> {
        let counted = self.stop();
        std::mem::forget(self);
        counted
    }

    fn stop(&self) -> Result<u64> {
        let mut counted = 0;
        // SAFETY: `counted` is valid to write to, and the handle is that of a callback of this thread.
        unsafe { sys::neva_operators_stop(self.handle, &raw mut counted) }.check("count operators")?;
        Ok(counted)
    }
}

impl Drop for OperatorCount {
    fn drop(&mut self) {
        let _ = self.stop();
    }
}
