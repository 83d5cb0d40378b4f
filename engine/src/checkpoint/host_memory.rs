//! Host memory for copies of weights and moments, reused from save to save: allocating it takes longer than the copy, and
//! training waits for it.

use super::stored_values::StoredValues;
use crate::error::Result;
use std::sync::{Arc, Mutex, PoisonError};
use tch::{Device, Tensor};

/// Host memory for copies. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct HostMemory {
    free: Arc<Mutex<Vec<Tensor>>>,
}

impl HostMemory {
    /// Replaces each of `all` by a copy in host memory.
    pub(super) fn fill<'a>(&self, all: impl Iterator<Item = &'a mut StoredValues>) -> Result<()> {
        let mut free = std::mem::take(&mut *self.free.lock().unwrap_or_else(PoisonError::into_inner));
        // Every save has the same tensors in the same order.
        free.reverse();
        for stored in all {
            let (size, kind) = stored.layout();
            let fits = |old: &Tensor| old.size() == size && old.kind() == kind;
            let mut host = match free.pop().filter(fits) {
                Some(old) => old,
                None => Tensor::f_empty(&size, (kind, Device::Cpu))?,
            };
            stored.copy_to(&mut host)?;
            *stored = StoredValues::Tensor(host);
        }
        Ok(())
    }

    /// Returns the copies for reuse once they are written.
    pub(super) fn put_back(&self, tensors: Vec<Tensor>) {
        *self.free.lock().unwrap_or_else(PoisonError::into_inner) = tensors;
    }
}
