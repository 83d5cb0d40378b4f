//! Prefetches batches with background threads.
//!
//! The source is a function of the batch index, so threads share no state. Worker `w` of `W` makes the batches
//! `w, w + W, ..` and has its own bounded queue; the consumer reads the queues in turn. The batches and their order are
//! therefore the same as without threads.

use std::{
    sync::{
        Arc,
        mpsc::{Receiver, sync_channel},
    },
    thread::{Builder, JoinHandle},
};

use crate::error::DataError;

/// Iterator over the batches that a source returns for the indices 0, 1, 2 .. until it returns `None`.
///
/// An error is an item like any other: iteration continues with the next batch. Dropping the loader stops its threads;
/// each one finishes the batch that it is working on.
pub struct Loader<B> {
    next: u64,
    done: bool,
    backend: Backend<B>,
}

/// Returns the batch of an index, or `None` after the last one.
type Source<B> = dyn Fn(u64) -> Option<Result<B, DataError>> + Send + Sync;

enum Backend<B> {
    Inline(Arc<Source<B>>),
    Workers {
        queues: Vec<Receiver<Option<Result<B, DataError>>>>,
        threads: Vec<JoinHandle<()>>,
    },
}

impl<B: Send + 'static> Loader<B> {
    /// Starts `num_workers` threads, each of which prefetches at most `prefetch` batches and works on one more. With 0
    /// workers, the caller's thread makes each batch in `next`.
    ///
    /// # Errors
    /// Returns [`DataError::Thread`] if the operating system cannot start a thread.
    pub fn new(
        source: impl Fn(u64) -> Option<Result<B, DataError>> + Send + Sync + 'static,
        num_workers: usize,
        prefetch: usize,
    ) -> Result<Self, DataError> {
        let source: Arc<Source<B>> = Arc::new(source);
        if num_workers == 0 {
            return Ok(Self {
                next: 0,
                done: false,
                backend: Backend::Inline(source),
            });
        }
        let (mut queues, mut threads) = (Vec::new(), Vec::new());
        for worker in 0..num_workers {
            let (sender, receiver) = sync_channel(prefetch);
            let source = Arc::clone(&source);
            let work = move || {
                for n in (worker as u64..).step_by(num_workers) {
                    let batch = source(n);
                    let last = batch.is_none();
                    // The queue is closed when the loader was dropped.
                    if sender.send(batch).is_err() || last {
                        break;
                    }
                }
            };
            let thread = Builder::new()
                .name(format!("data-{worker}"))
                .spawn(work)
                .map_err(DataError::Thread)?;
            queues.push(receiver);
            threads.push(thread);
        }
        Ok(Self {
            next: 0,
            done: false,
            backend: Backend::Workers { queues, threads },
        })
    }
}

impl<B> Iterator for Loader<B> {
    type Item = Result<B, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let n = self.next;
        self.next += 1;
        let batch = match &self.backend {
            Backend::Inline(source) => source(n),
            Backend::Workers { queues, .. } => {
                let worker = (n % queues.len() as u64) as usize;
                // A worker sends `None` before it ends. A queue that closes without it means that the worker panicked.
                queues[worker].recv().unwrap_or(Some(Err(DataError::WorkerPanicked { worker })))
            }
        };
        self.done = matches!(batch, None | Some(Err(DataError::WorkerPanicked { .. })));
        batch
    }
}

impl<B> Drop for Loader<B> {
    fn drop(&mut self) {
        if let Backend::Workers { queues, threads } = &mut self.backend {
            queues.clear();
            for thread in threads.drain(..) {
                // A panic was reported to the consumer as `WorkerPanicked`, unless the consumer stopped reading before.
                let _ = thread.join();
            }
        }
    }
}
