//! The thread that sends: it alone waits for the server.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use neva_schemas::MlflowLogger;

use super::client::{Client, Failure, PARAMS_PER_REQUEST};
use super::queue::Queue;
use super::{name, unix_ms};

/// First pause after a request that failed; each one after it is twice as long.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Longest pause once the run is over and somebody waits.
const LAST_PAUSE: Duration = Duration::from_millis(500);

/// Sends a run's record. Its thread ends with the run, or when the server does not want the run.
pub(super) struct Sender {
    pub queue: Arc<Queue>,
    pub client: Client,
    pub config: MlflowLogger,
    pub run_name: String,
    pub params: BTreeMap<String, String>,
    pub start_ms: u64,
    /// The user has been told that the server is down.
    pub told_down: bool,
    /// The user has been told that the server refused something.
    pub told_refused: bool,
}

/// Also where the thread panics: nobody waits for it in vain.
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
            let sent = self.insist("metrics", |sender| sender.client.log_metrics(&run, &metrics));
            self.queue.sent(sent.is_some());
            last = Instant::now();
        }
        if let Some(end) = self.queue.ended() {
            self.insist("the run's end", |sender| sender.client.end_run(&run, end.outcome, unix_ms()));
        }
    }

    /// Makes the run on the server and returns its id.
    fn begin(&mut self) -> Option<String> {
        let experiment = self.insist("the experiment", |sender| sender.client.experiment(&sender.config.experiment_name))?;
        let run = self.insist("the run", |sender| {
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
            self.insist("parameters", |sender| sender.client.log_params(&run, &chunk));
        }
        Some(run)
    }

    /// Asks until the server answers. `None`: it does not want what it is asked, or did not answer before the time
    /// to give up.
    fn insist<T>(&mut self, what: &str, ask: impl Fn(&Self) -> Result<T, Failure>) -> Option<T> {
        let mut pause = FIRST_PAUSE;
        loop {
            let failure = match ask(self) {
                Ok(answer) => return Some(answer),
                Err(failure) => failure,
            };
            let uri = &self.config.tracking_uri;
            if let Failure::Refused { .. } = failure {
                if !std::mem::replace(&mut self.told_refused, true) {
                    tracing::warn!("MLflow at {uri} refuses {what}: {failure}");
                }
                return None;
            }
            if !std::mem::replace(&mut self.told_down, true) {
                tracing::warn!("MLflow at {uri} does not answer: {failure}; training goes on, and values are sent when it does");
            }
            match self.queue.ended() {
                Some(end) if Instant::now() >= end.deadline => return None,
                Some(_) => self.queue.rest(LAST_PAUSE),
                None => self.queue.rest(pause),
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}
