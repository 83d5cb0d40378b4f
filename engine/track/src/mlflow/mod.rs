//! Logging of a run to an MLflow server.
//!
//! ```text
//! training thread --push--> Queue (bounded) --next--> Sender's thread --Client--> REST API 2.0
//! ```
//!
//! The server never blocks or ends training. Values that cannot be sent wait in the queue; if it is full, the oldest are
//! dropped and counted.

mod client;
mod credentials;
mod name;
mod queue;
mod sender;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use neva_schemas::MlflowLogger;

pub use credentials::MlflowCredentials;

use crate::{Logger, Outcome, StepMetrics, TrackError, ValidationMetrics};
use client::{Client, Metric};
use queue::Queue;
use sender::Sender;

/// A run on an MLflow server.
///
/// No method fails, and only [`Logger::finish`] waits, for at most [`Mlflow::FINISH_TIMEOUT`]. A run that is dropped
/// unfinished is marked as failed. A killed process leaves its run as `RUNNING` on the server.
pub struct Mlflow {
    queue: Arc<Queue>,
    tracking_uri: String,
    finished: bool,
}

impl Mlflow {
    /// Maximum time that the end of a run waits for the server.
    pub const FINISH_TIMEOUT: Duration = Duration::from_secs(10);

    /// Starts a run, named `default_run_name` if `config` has no name, with `params` as its parameters. Keys and values are
    /// truncated to MLflow's limits. Returns at once; later errors are logged with `tracing`.
    pub fn start(config: &MlflowLogger, default_run_name: &str, params: &BTreeMap<String, String>, credentials: MlflowCredentials) -> Self {
        let queue = Arc::new(Queue::default());
        let sender = Sender {
            queue: Arc::clone(&queue),
            client: Client::new(&config.tracking_uri, &credentials),
            run_name: config.run_name.clone().unwrap_or_else(|| default_run_name.to_owned()),
            config: config.clone(),
            params: params.clone(),
            start_ms: unix_ms(),
            reported_down: false,
            reported_refused: false,
        };
        if let Err(error) = thread::Builder::new().name("mlflow".to_owned()).spawn(|| sender.send()) {
            tracing::warn!("nothing is sent to MLflow: cannot start a thread: {error}");
        }
        Self {
            queue,
            tracking_uri: config.tracking_uri.clone(),
            finished: false,
        }
    }

    /// Returns the number of values dropped so far.
    pub fn lost(&self) -> usize {
        self.queue.lost()
    }

    fn push(&self, step: u64, scalars: &[(&str, f64)]) {
        let timestamp = unix_ms();
        self.queue.push(scalars.iter().map(|(key, value)| Metric {
            key: name::key(key),
            value: *value,
            timestamp,
            step,
        }));
    }
}

impl Logger for Mlflow {
    fn step(&mut self, metrics: &StepMetrics) -> Result<(), TrackError> {
        self.push(metrics.step, &metrics.scalars());
        Ok(())
    }

    fn validation(&mut self, metrics: &ValidationMetrics) -> Result<(), TrackError> {
        self.push(metrics.step, &metrics.scalars());
        Ok(())
    }

    fn finish(&mut self, outcome: Outcome) -> Result<(), TrackError> {
        if std::mem::replace(&mut self.finished, true) {
            return Ok(());
        }
        self.queue.end(outcome, Self::FINISH_TIMEOUT);
        self.queue.wait_closed(Self::FINISH_TIMEOUT);
        match self.lost() {
            0 => {}
            lost => tracing::warn!("{lost} values did not reach MLflow at {}", self.tracking_uri),
        }
        Ok(())
    }
}

impl Drop for Mlflow {
    fn drop(&mut self) {
        // `finish` never fails.
        let _ = self.finish(Outcome::Failed);
    }
}

impl fmt::Debug for Mlflow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mlflow")
            .field("tracking_uri", &self.tracking_uri)
            .finish_non_exhaustive()
    }
}

/// Milliseconds since the epoch.
fn unix_ms() -> u64 {
    let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
