//! Host memory for copies of weights and moments, reused from save to save: allocating it takes longer than the copy, and
//! training waits for it.

use crate::error::Result;
use std::sync::{Arc, Mutex, PoisonError};
use tch::{Device, Tensor};

/// Host memory for copies. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct HostMemory {
    free: Arc<Mutex<Vec<Tensor>>>,
}

impl HostMemory {
    /// Replaces each of `tensors` by a copy in host memory.
    pub(super) fn fill(&self, tensors: &mut [&mut Tensor]) -> Result<()> {
        let mut free = std::mem::take(&mut *self.free.lock().unwrap_or_else(PoisonError::into_inner));
        // Every save has the same tensors in the same order.
        free.reverse();
        for tensor in tensors {
            let fits = |old: &Tensor| old.size() == tensor.size() && old.kind() == tensor.kind();
            let mut host = match free.pop().filter(fits) {
                Some(old) => old,
                None => Tensor::f_empty(tensor.size(), (tensor.kind(), Device::Cpu))?,
            };
            host.f_copy_(tensor)?;
            **tensor = host;
        }
        Ok(())
    }

    /// Returns the copies for reuse once they are written.
    pub(super) fn put_back(&self, tensors: Vec<Tensor>) {
        *self.free.lock().unwrap_or_else(PoisonError::into_inner) = tensors;
    }
}
