//! A simulated machine: a runtime that outlives every launcher, behind a slow connection that gets lost.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use neva_executors::{ExecutorError, JobHandle};
use tokio::{
    runtime::{Builder, Handle},
    sync::oneshot,
    time::sleep,
};

use crate::fixture::Loss;

/// Latency of a request or a reply.
const LATENCY: Duration = Duration::from_millis(3);

pub(crate) struct Machine {
    runtime: Handle,
    /// The machine runs until this is dropped.
    _power: oneshot::Sender<()>,
    /// Connections to lose.
    losses: Mutex<VecDeque<Loss>>,
    /// Jobs by the comment of their submission.
    jobs: Mutex<BTreeMap<String, JobHandle>>,
}

impl Machine {
    pub(crate) fn start() -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let handle = runtime.handle().clone();
        let (_power, off) = oneshot::channel();
        std::thread::spawn(move || {
            // An error means that the machine was dropped.
            let _ = runtime.block_on(off);
            runtime.shutdown_background();
        });
        Self {
            runtime: handle,
            _power,
            losses: Mutex::default(),
            jobs: Mutex::default(),
        }
    }

    /// Loses the next connections.
    pub(crate) fn lose(&self, losses: &[Loss]) {
        self.losses.lock().unwrap().extend(losses);
    }

    /// Runs `work` on the machine and returns its result.
    pub(crate) async fn call<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, ExecutorError>> + Send + 'static,
    ) -> Result<T, ExecutorError> {
        sleep(LATENCY).await;
        let loss = self.losses.lock().unwrap().pop_front();
        if loss == Some(Loss::OfRequest) {
            return Err(lost("the request did not arrive"));
        }
        let done = self.runtime.spawn(work).await.unwrap();
        sleep(LATENCY).await;
        match loss {
            None => done,
            Some(_) => Err(lost("the reply did not arrive")),
        }
    }

    /// Jobs by the comment of their submission.
    pub(crate) fn jobs(&self) -> MutexGuard<'_, BTreeMap<String, JobHandle>> {
        self.jobs.lock().unwrap()
    }
}

fn lost(reason: &str) -> ExecutorError {
    ExecutorError::Connection {
        place: "the machine".into(),
        source: io::Error::new(io::ErrorKind::ConnectionReset, reason),
    }
}
