//! A run's record on an MLflow server.
//!
//! ```text
//! training thread --push--> Queue (bounded) --next--> Sender's thread --Client--> REST API 2.0
//! ```
//!
//! Training is never held up and never ended by the server: what cannot be sent waits, and of more than the
//! queue holds the oldest is lost and counted.

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
/// No method fails, and only [`Logger::finish`] waits: for [`Mlflow::PATIENCE`] at most. One that is dropped
/// unfinished is finished as failed. A process that is killed leaves its run as `RUNNING` on the server.
pub struct Mlflow {
    queue: Arc<Queue>,
    tracking_uri: String,
    finished: bool,
}

impl Mlflow {
    /// Longest time that the end of a run waits for the server.
    pub const PATIENCE: Duration = Duration::from_secs(10);

    /// Begins a run, under `default_run_name` where `config` gives none, with `params` as its parameters: keys
    /// and values are cut to what MLflow takes. Returns at once; what goes wrong later is said through `tracing`.
    pub fn start(config: &MlflowLogger, default_run_name: &str, params: &BTreeMap<String, String>, credentials: MlflowCredentials) -> Self {
        let queue = Arc::new(Queue::default());
        let sender = Sender {
            queue: Arc::clone(&queue),
            client: Client::new(&config.tracking_uri, &credentials),
            run_name: config.run_name.clone().unwrap_or_else(|| default_run_name.to_owned()),
            config: config.clone(),
            params: params.clone(),
            start_ms: unix_ms(),
            told_down: false,
            told_refused: false,
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

    /// Values that will never reach the server, so far.
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
        self.queue.end(outcome, Self::PATIENCE);
        self.queue.wait_closed(Self::PATIENCE);
        match self.lost() {
            0 => {}
            lost => tracing::warn!("{lost} values did not reach MLflow at {}", self.tracking_uri),
        }
        Ok(())
    }
}

impl Drop for Mlflow {
    fn drop(&mut self) {
        // Never an error.
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
