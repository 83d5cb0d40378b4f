//! Batches made ahead of time by background threads.
//!
//! The source is a function of the batch's number, so threads share nothing: worker `w` of `W` makes the batches
//! `w, w + W, ..` and holds a bounded queue of its own; the consumer goes round the queues. The order, and everything
//! else, is therefore that of no threads at all.

use std::{
    sync::{
        Arc,
        mpsc::{Receiver, sync_channel},
    },
    thread::{Builder, JoinHandle},
};

use crate::error::DataError;

/// Iterator over what a source returns for 0, 1, 2 .. until it returns `None`.
///
/// An error is an item like any other: the batches after it still come. Dropping the loader stops its threads, each
/// after the batch in its hands.
pub struct Loader<B> {
    next: u64,
    done: bool,
    lanes: Lanes<B>,
}

/// Makes the batch of a number.
type Source<B> = dyn Fn(u64) -> Option<Result<B, DataError>> + Send + Sync;

enum Lanes<B> {
    Inline(Arc<Source<B>>),
    Workers {
        queues: Vec<Receiver<Option<Result<B, DataError>>>>,
        threads: Vec<JoinHandle<()>>,
    },
}

impl<B: Send + 'static> Loader<B> {
    /// Starts `num_workers` threads (0: batches are made when asked for), each of which keeps at most `prefetch`
    /// finished batches and one in its hands.
    ///
    /// # Errors
    /// When the system gives no thread.
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
                lanes: Lanes::Inline(source),
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
                    // A closed queue means that nobody wants more.
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
            lanes: Lanes::Workers { queues, threads },
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
        let batch = match &self.lanes {
            Lanes::Inline(source) => source(n),
            Lanes::Workers { queues, .. } => {
                let worker = (n % queues.len() as u64) as usize;
                // A worker says `None` before it leaves: one that only leaves has panicked.
                queues[worker].recv().unwrap_or(Some(Err(DataError::WorkerLost { worker })))
            }
        };
        self.done = matches!(batch, None | Some(Err(DataError::WorkerLost { .. })));
        batch
    }
}

impl<B> Drop for Loader<B> {
    fn drop(&mut self) {
        if let Lanes::Workers { queues, threads } = &mut self.lanes {
            queues.clear();
            for thread in threads.drain(..) {
                // A panic was reported to the consumer as `WorkerLost`, or the consumer lost interest before.
                let _ = thread.join();
            }
        }
    }
}
