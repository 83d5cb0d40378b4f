//! The sender thread, the only one that waits for the server.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use neva_schemas::MlflowLogger;

use super::client::{Client, Failure, PARAMS_PER_REQUEST};
use super::queue::Queue;
use super::{name, unix_ms};

/// First pause after a failed request; it doubles with each failure.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Maximum pause.
const MAX_PAUSE: Duration = Duration::from_secs(60);
/// Maximum pause after the end of the run.
const LAST_PAUSE: Duration = Duration::from_millis(500);

/// Sends a run's metrics. Its thread ends with the run, or when the server refuses the run.
pub(super) struct Sender {
    pub queue: Arc<Queue>,
    pub client: Client,
    pub config: MlflowLogger,
    pub run_name: String,
    pub params: BTreeMap<String, String>,
    pub start_ms: u64,
    /// The user was warned that the server is down.
    pub reported_down: bool,
    /// The user was warned that the server refused a request.
    pub reported_refused: bool,
}

/// Runs also if the thread panics, so that nothing waits for it in vain.
impl Drop for Sender {
    fn drop(&mut self) {
        self.queue.close();
    }
}

impl Sender {
    pub(super) fn send(mut self) {
        let Some(run) = self.begin() else { return };
        let mut last = Instant::now();
        while let Some(metrics) = self.queue.next(last) {
            let sent = self.retry("metrics", |sender| sender.client.log_metrics(&run, &metrics));
            self.queue.sent(sent.is_some());
            last = Instant::now();
        }
        if let Some(end) = self.queue.ended() {
            self.retry("the run's end", |sender| sender.client.end_run(&run, end.outcome, unix_ms()));
        }
    }

    /// Creates the run on the server and returns its id.
    fn begin(&mut self) -> Option<String> {
        let experiment = self.retry("the experiment", |sender| sender.client.experiment(&sender.config.experiment_name))?;
        let run = self.retry("the run", |sender| {
            sender
                .client
                .create_run(&experiment, &sender.config, &sender.run_name, sender.start_ms)
        })?;
        tracing::info!(
            "this is run {run} of {:?} at {}",
            self.config.experiment_name,
            self.config.tracking_uri
        );
        let params: Vec<_> = name::params(&self.params).into_iter().collect();
        for chunk in params.chunks(PARAMS_PER_REQUEST) {
            let chunk = chunk.iter().cloned().collect();
            self.retry("parameters", |sender| sender.client.log_params(&run, &chunk));
        }
        Some(run)
    }

    /// Retries a request until the server answers. Returns `None` if it refuses the request or does not answer before the
    /// deadline.
    fn retry<T>(&mut self, what: &str, request: impl Fn(&Self) -> Result<T, Failure>) -> Option<T> {
        let mut pause = FIRST_PAUSE;
        loop {
            let failure = match request(self) {
                Ok(response) => return Some(response),
                Err(failure) => failure,
            };
            let uri = &self.config.tracking_uri;
            if let Failure::Refused { .. } = failure {
                if !std::mem::replace(&mut self.reported_refused, true) {
                    tracing::warn!("MLflow at {uri} refuses {what}: {failure}");
                }
                return None;
            }
            if !std::mem::replace(&mut self.reported_down, true) {
                tracing::warn!("MLflow at {uri} does not answer: {failure}; training continues, and values are sent when it does");
            }
            match self.queue.ended() {
                Some(end) if Instant::now() >= end.deadline => return None,
                Some(_) => self.queue.rest(LAST_PAUSE),
                None => self.queue.rest(pause),
            }
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }
}
