//! The kernels without a GPU: compiled by NVRTC, and computed on the CPU from the same source.
#![expect(unsafe_code, reason = "the emulator is a foreign library")]
#![expect(clippy::unwrap_used, reason = "a test that cannot continue has failed")]

mod compiled;
mod emulated;
mod emulator;
mod formulae;
mod processor;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Starts libtorch's random numbers anew for a test. All threads draw from the same ones, so that tests that draw wait for each
/// other: otherwise their values would differ from run to run.
fn seeded(seed: i64) -> MutexGuard<'static, ()> {
    static DRAWING: Mutex<()> = Mutex::new(());
    let drawing = DRAWING.lock().unwrap_or_else(PoisonError::into_inner);
    tch::manual_seed(seed);
    drawing
}
