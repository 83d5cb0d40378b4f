//! Tensors that were compared while they were written.
//!
//! A disk is slower than a comparison, so a thread compares each copied tensor with its source while the next ones wait for the
//! disk. The check looks up what is known, and compares the rest.

use crate::checkpoint::Extent;
use crate::error::{EngineError, Result};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Device and number of a file, and the first byte of a tensor in it.
type Place = [u64; 3];

/// Pairs of extents that hold the same finite values.
#[derive(Debug, Default)]
pub(super) struct EqualExtents(Mutex<BTreeSet<[Place; 2]>>);

impl EqualExtents {
    /// Compares copied tensors as they arrive, until all have arrived or `stop` is set. A difference is left to the check, which
    /// reports it.
    pub(super) fn compare(&self, copied: &Receiver<(String, Extent, Extent)>, stop: &AtomicBool) {
        for (name, own, written) in copied {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            if own.equals(&written, &name).unwrap_or(false)
                && let Ok(pair) = pair(&own, &written)
            {
                self.lock().insert(pair);
            }
        }
    }

    /// Returns whether a pair is known to be equal.
    pub(super) fn has(&self, own: &Extent, written: &Extent) -> bool {
        let is_alike = own.kind == written.kind && own.shape == written.shape;
        is_alike && pair(own, written).is_ok_and(|pair| self.lock().contains(&pair))
    }

    /// The set is valid after a panic of another thread: the only change is an insertion.
    fn lock(&self) -> MutexGuard<'_, BTreeSet<[Place; 2]>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A file keeps its number when it is renamed.
fn pair(own: &Extent, written: &Extent) -> Result<[Place; 2]> {
    let place = |extent: &Extent| extent.place().map_err(EngineError::io("read", extent.path()));
    Ok([place(own)?, place(written)?])
}
