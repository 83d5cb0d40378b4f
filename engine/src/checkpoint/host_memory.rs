//! Memory of the host that weights and moments are copied into, kept from save to save: fresh memory costs more time
//! than the copy, and training stands still for it.

use crate::error::Result;
use std::sync::{Arc, Mutex, PoisonError};
use tch::{Device, Tensor};

/// Memory that copies are made in. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct HostMemory {
    free: Arc<Mutex<Vec<Tensor>>>,
}

impl HostMemory {
    /// Replaces each of `tensors` by a copy of it.
    pub(super) fn fill(&self, tensors: &mut [&mut Tensor]) -> Result<()> {
        let mut free = std::mem::take(&mut *self.free.lock().unwrap_or_else(PoisonError::into_inner));
        // What is saved is the same every time, and in the same order.
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

    /// Takes the copies back when they are written.
    pub(super) fn put_back(&self, tensors: Vec<Tensor>) {
        *self.free.lock().unwrap_or_else(PoisonError::into_inner) = tensors;
    }
}
