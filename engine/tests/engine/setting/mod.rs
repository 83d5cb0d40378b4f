//! Fixtures of all tests: a deadline, ranks that are threads, small runs, samples, models and folders.

mod checkpoints;
mod closeness;
mod exports;
mod recipe;
mod samples;
mod trained;
mod whole_run;

pub(crate) use checkpoints::*;
pub(crate) use closeness::*;
pub(crate) use exports::*;
pub(crate) use recipe::*;
pub(crate) use samples::*;
pub(crate) use trained::*;
pub(crate) use whole_run::*;

use neva_engine::comm::{Mesh, run_ranks};
use neva_schemas::ParallelSizes;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

pub(crate) const ONE: ParallelSizes = ParallelSizes::ONE;

/// Longest time that a test takes.
const LIMIT: Duration = Duration::from_secs(900);

/// Longest time that a rank waits for another.
const DEADLINE: Duration = Duration::from_secs(300);

/// Runs a test's body on its own thread, and fails if it hangs.
pub(crate) fn within_limit<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> T {
    // One thread for each rank gives the same sums in every run.
    tch::set_num_threads(1);
    let (done, outcome) = channel();
    let thread = std::thread::spawn(move || done.send(body()));
    match outcome.recv_timeout(LIMIT) {
        Ok(value) => value,
        Err(RecvTimeoutError::Timeout) => panic!("not done after {LIMIT:?}"),
        Err(RecvTimeoutError::Disconnected) => match thread.join() {
            Err(panic) => std::panic::resume_unwind(panic),
            Ok(_) => panic!("the body ended without a value"),
        },
    }
}

/// Runs `body` on every rank of a mesh of threads.
pub(crate) fn on_mesh<T: Send>(sizes: ParallelSizes, body: impl Fn(Mesh) -> T + Sync) -> Vec<T> {
    run_ranks(sizes.world() as usize, DEADLINE, |factory| {
        body(Mesh::new(sizes, &factory).unwrap())
    })
}
