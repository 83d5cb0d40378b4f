//! Progress of a TrainJob, posted to the controller of Kubeflow Trainer 2.2 with its feature `TrainJobStatus`.
//!
//! The controller gives the pods of a TrainJob three variables: the URL to post to, the file of the authority that its certificate
//! is checked with, and the file of a token that is renewed while the job runs. The body is an `UpdateTrainJobStatusRequest` of
//! `trainer.kubeflow.org/v1alpha1`. Training waits for no post: the newest progress replaces one that was not sent.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use neva_schemas::env;
use serde_json::{Value, json};
use ureq::Agent;
use ureq::http::header;
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};

use crate::{Logger, Outcome, StepMetrics, TrackError, ValidationMetrics};

/// Shortest time between two posts.
const INTERVAL: Duration = Duration::from_secs(5);
/// Timeout of a post.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum time that the end of a run waits for its last post.
const FINISH_TIMEOUT: Duration = Duration::from_secs(12);
/// Maximum length of a value; the controller's limit.
const MAX_VALUE: usize = 64;

/// Where a TrainJob takes its progress.
#[derive(Clone, PartialEq, Eq)]
pub struct TrainerStatusServer {
    /// URL of the TrainJob's status.
    pub url: String,
    /// File of the certificate authority, in PEM; `None` for that of the system.
    pub ca_file: Option<PathBuf>,
    /// File of the token, which is read for each post.
    pub token_file: Option<PathBuf>,
}

impl TrainerStatusServer {
    /// Reads the variables of Kubeflow Trainer through `lookup`; `None` outside of a TrainJob.
    pub fn read(lookup: impl Fn(&str) -> Option<String>) -> Option<Self> {
        let read = |name| lookup(name).filter(|text| !text.is_empty());
        Some(Self {
            url: read(env::KUBEFLOW_TRAINER_SERVER_URL)?,
            ca_file: read(env::KUBEFLOW_TRAINER_SERVER_CA_CERT).map(PathBuf::from),
            token_file: read(env::KUBEFLOW_TRAINER_SERVER_TOKEN).map(PathBuf::from),
        })
    }
}

impl fmt::Debug for TrainerStatusServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TrainerStatusServer({})", self.url)
    }
}

/// Posts the progress of a run.
pub struct TrainerStatus {
    shared: Arc<Shared>,
    total_steps: u64,
    started: Instant,
    /// Steps before the first one of this process.
    first_step: Option<u64>,
    val_loss: Option<f64>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// The newest progress that was not sent.
    next: Option<Value>,
    is_over: bool,
    is_closed: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl TrainerStatus {
    /// Starts to post the progress of a run of `total_steps`. Returns at once; errors are logged with `tracing`.
    pub fn start(server: TrainerStatusServer, total_steps: u64) -> Self {
        let shared = Arc::new(Shared::default());
        let sender = Sender {
            shared: Arc::clone(&shared),
            server,
            is_reported: false,
        };
        if let Err(error) = thread::Builder::new().name("trainer-status".to_owned()).spawn(|| sender.run()) {
            tracing::warn!("no progress is sent to Kubeflow Trainer: cannot start a thread: {error}");
            shared.lock().is_closed = true;
        }
        Self {
            shared,
            total_steps,
            started: Instant::now(),
            first_step: None,
            val_loss: None,
        }
    }

    fn push(&self, status: Value) {
        self.shared.lock().next = Some(json!({ "trainerStatus": status }));
        self.shared.changed.notify_all();
    }
}

impl Logger for TrainerStatus {
    fn step(&mut self, metrics: &StepMetrics) -> Result<(), TrackError> {
        let done = metrics.step + 1;
        let first = *self.first_step.get_or_insert(metrics.step);
        let seconds = self.started.elapsed().as_secs_f64() / (done - first).max(1) as f64;
        let remaining = seconds * self.total_steps.saturating_sub(done) as f64;
        let mut scalars = metrics.scalars();
        scalars.extend(self.val_loss.map(|loss| ("val_loss", loss)));
        let metric = |(name, value): &(&str, f64)| {
            let value: String = value.to_string().chars().take(MAX_VALUE).collect();
            json!({ "name": name, "value": value })
        };
        self.push(json!({
            "progressPercentage": (100 * done.min(self.total_steps)) / self.total_steps.max(1),
            "estimatedRemainingSeconds": remaining.min(f64::from(i32::MAX)) as i32,
            "metrics": scalars.iter().map(metric).collect::<Vec<_>>(),
            "lastUpdatedTime": Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default().to_string(),
        }));
        Ok(())
    }

    fn validation(&mut self, metrics: &ValidationMetrics) -> Result<(), TrackError> {
        self.val_loss = metrics.val_loss;
        Ok(())
    }

    fn finish(&mut self, _: Outcome) -> Result<(), TrackError> {
        let mut state = self.shared.lock();
        state.is_over = true;
        self.shared.changed.notify_all();
        let end = Instant::now() + FINISH_TIMEOUT;
        while !state.is_closed {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state = self
                .shared
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        Ok(())
    }
}

/// The thread that posts.
struct Sender {
    shared: Arc<Shared>,
    server: TrainerStatusServer,
    /// A failure was logged: the same one is not logged for each post.
    is_reported: bool,
}

impl Sender {
    fn run(mut self) {
        while let Some(body) = self.next() {
            match self.post(&body) {
                Ok(()) => self.is_reported = false,
                Err(problem) if !self.is_reported => {
                    tracing::warn!("Kubeflow Trainer did not take the progress of the run: {problem}");
                    self.is_reported = true;
                }
                Err(_) => {}
            }
            if !self.pause() {
                break;
            }
        }
        self.shared.lock().is_closed = true;
        self.shared.changed.notify_all();
    }

    /// Waits for progress; `None` if the run is over and all was sent.
    fn next(&self) -> Option<Value> {
        let mut state = self.shared.lock();
        loop {
            if let Some(body) = state.next.take() {
                return Some(body);
            }
            if state.is_over {
                return None;
            }
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits until the next post is allowed. Returns false if the run is over and nothing is left.
    fn pause(&self) -> bool {
        let end = Instant::now() + INTERVAL;
        let mut state = self.shared.lock();
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if state.is_over && state.next.is_none() {
                return false;
            }
            if left.is_zero() {
                return true;
            }
            state = self
                .shared
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    fn post(&self, body: &Value) -> Result<(), String> {
        let mut request = self
            .agent()?
            .post(&self.server.url)
            .header(header::CONTENT_TYPE, "application/json");
        if let Some(file) = &self.server.token_file {
            // The cluster renews it.
            let token = std::fs::read_to_string(file).map_err(|error| format!("cannot read {}: {error}", file.display()))?;
            let mut value = header::HeaderValue::from_str(&format!("Bearer {}", token.trim()))
                .map_err(|_| format!("{} contains characters that are invalid in an HTTP header", file.display()))?;
            value.set_sensitive(true);
            request = request.header(header::AUTHORIZATION, value);
        }
        request.send_json(body).map(drop).map_err(|error| error.to_string())
    }

    /// Returns a client. A post in five seconds needs no connection that is kept, and the authority may be renewed too.
    fn agent(&self) -> Result<Agent, String> {
        let mut config = Agent::config_builder()
            .timeout_global(Some(TIMEOUT))
            .user_agent(concat!("neva-run/", env!("CARGO_PKG_VERSION")));
        if let Some(file) = &self.server.ca_file {
            let pem = std::fs::read(file).map_err(|error| format!("cannot read {}: {error}", file.display()))?;
            let certificates = parse_pem(&pem).filter_map(|item| match item {
                Ok(PemItem::Certificate(certificate)) => Some(certificate),
                _ => None,
            });
            let roots = RootCerts::new_with_certs(&certificates.collect::<Vec<_>>());
            config = config.tls_config(TlsConfig::builder().root_certs(roots).build());
        }
        Ok(config.build().into())
    }
}
