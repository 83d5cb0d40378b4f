//! Client of the part of MLflow's REST API 2.0 that logging needs: each function is one request.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use neva_schemas::MlflowLogger;
use serde::{Serialize, Serializer};
use serde_json::{Value, json};
use ureq::http::{HeaderValue, StatusCode, header};
use ureq::tls::{RootCerts, TlsConfig};
use ureq::{Agent, Body, RequestBuilder, http::Response};

use super::{credentials::MlflowCredentials, name};
use crate::Outcome;

/// Maximum number of metrics per request; MLflow's limit.
pub(super) const METRICS_PER_REQUEST: usize = 1000;
/// Maximum number of parameters per request; MLflow's limit.
pub(super) const PARAMS_PER_REQUEST: usize = 100;
/// Timeout of a request; long enough for a busy server.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Maximum length of a response, in bytes.
const MAX_RESPONSE: u64 = 1 << 20;

/// A value of a metric.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Metric {
    pub key: String,
    #[serde(serialize_with = "as_proto_json")]
    pub value: f64,
    /// Milliseconds since the epoch.
    pub timestamp: u64,
    pub step: u64,
}

/// Serializes a number as protobuf's JSON, which has strings for NaN and infinity.
fn as_proto_json<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    match value {
        value if value.is_nan() => serializer.serialize_str("NaN"),
        &f64::INFINITY => serializer.serialize_str("Infinity"),
        &f64::NEG_INFINITY => serializer.serialize_str("-Infinity"),
        value => serializer.serialize_f64(*value),
    }
}

/// Failure of a request.
#[derive(Debug)]
pub(super) enum Failure {
    /// The server cannot be reached or has an error; a retry may succeed.
    Down(String),
    /// The server refuses this request; a retry is useless.
    Refused { status: StatusCode, code: String, message: String },
}

impl Failure {
    fn is(&self, error_code: &str) -> bool {
        matches!(self, Self::Refused { code, .. } if code == error_code)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Down(reason) => f.write_str(reason),
            Self::Refused { status, code, message } if code.is_empty() => write!(f, "{status}: {message}"),
            Self::Refused { status, code, message } => write!(f, "{status}, {code}: {message}"),
        }
    }
}

/// A server.
pub(super) struct Client {
    agent: Agent,
    api: String,
    authorization: Option<HeaderValue>,
}

impl Client {
    pub(super) fn new(tracking_uri: &str, credentials: &MlflowCredentials) -> Self {
        // The system's certificates: a company's server often has a certificate of the company.
        let tls = TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build();
        let agent = Agent::config_builder()
            .timeout_global(Some(TIMEOUT))
            .http_status_as_error(false)
            .tls_config(tls)
            .user_agent(concat!("neva-run/", env!("CARGO_PKG_VERSION")))
            .build();
        Self {
            agent: agent.into(),
            api: format!("{}/api/2.0/mlflow", tracking_uri.trim_end_matches('/')),
            authorization: credentials.authorization(),
        }
    }

    /// Returns the id of an experiment, which is created if it does not exist.
    pub(super) fn experiment(&self, name: &str) -> Result<String, Failure> {
        let found = match self.find_experiment(name) {
            Err(failure) if failure.is("RESOURCE_DOES_NOT_EXIST") => {
                match self.post("experiments/create", &json!({ "name": name })) {
                    // Another run created it first.
                    Err(failure) if failure.is("RESOURCE_ALREADY_EXISTS") => self.find_experiment(name),
                    created => created,
                }
            }
            found => found,
        }?;
        text(&found, "/experiment/experiment_id").or_else(|_| text(&found, "/experiment_id"))
    }

    fn find_experiment(&self, name: &str) -> Result<Value, Failure> {
        let request = self
            .agent
            .get(format!("{}/experiments/get-by-name", self.api))
            .query("experiment_name", name);
        answer(self.authorized(request).call())
    }

    /// Creates a run and returns its id.
    pub(super) fn create_run(&self, experiment: &str, config: &MlflowLogger, run_name: &str, start_ms: u64) -> Result<String, Failure> {
        let mut tags = name::tags(&config.tags);
        tags.insert("mlflow.source.name".to_owned(), "neva-run".to_owned());
        let body = json!({
            "experiment_id": experiment,
            "run_name": run_name,
            "start_time": start_ms,
            "tags": pairs(&tags),
        });
        text(&self.post("runs/create", &body)?, "/run/info/run_id")
    }

    /// Logs at most [`PARAMS_PER_REQUEST`] parameters.
    pub(super) fn log_params(&self, run: &str, params: &BTreeMap<String, String>) -> Result<(), Failure> {
        self.post("runs/log-batch", &json!({ "run_id": run, "params": pairs(params) }))
            .map(drop)
    }

    /// Logs at most [`METRICS_PER_REQUEST`] metrics.
    pub(super) fn log_metrics(&self, run: &str, metrics: &[Metric]) -> Result<(), Failure> {
        self.post("runs/log-batch", &json!({ "run_id": run, "metrics": metrics })).map(drop)
    }

    pub(super) fn end_run(&self, run: &str, outcome: Outcome, end_ms: u64) -> Result<(), Failure> {
        let status = match outcome {
            Outcome::Finished => "FINISHED",
            Outcome::Failed => "FAILED",
            Outcome::Stopped => "KILLED",
        };
        self.post("runs/update", &json!({ "run_id": run, "status": status, "end_time": end_ms }))
            .map(drop)
    }

    fn post(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        let request = self.agent.post(format!("{}/{path}", self.api));
        answer(self.authorized(request).send_json(body))
    }

    fn authorized<Kind>(&self, request: RequestBuilder<Kind>) -> RequestBuilder<Kind> {
        match &self.authorization {
            Some(value) => request.header(header::AUTHORIZATION, value),
            None => request,
        }
    }
}

fn pairs(entries: &BTreeMap<String, String>) -> Vec<Value> {
    entries.iter().map(|(key, value)| json!({ "key": key, "value": value })).collect()
}

fn answer(response: Result<Response<Body>, ureq::Error>) -> Result<Value, Failure> {
    let down = |error: ureq::Error| Failure::Down(error.to_string());
    let mut response = response.map_err(down)?;
    let status = response.status();
    let text = response
        .body_mut()
        .with_config()
        .limit(MAX_RESPONSE)
        .lossy_utf8(true)
        .read_to_string()
        .map_err(down)?;
    let passing = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_EARLY, StatusCode::TOO_MANY_REQUESTS];
    if status.is_server_error() || passing.contains(&status) {
        return Err(Failure::Down(status.to_string()));
    }
    let refused = |code: &str, message: &str| Failure::Refused {
        status,
        code: code.to_owned(),
        message: message.to_owned(),
    };
    let Ok(value) = serde_json::from_str::<Value>(&text) else {
        return Err(refused("", "the response is not MLflow's; check `log.mlflow.tracking_uri`"));
    };
    if status.is_success() {
        return Ok(value);
    }
    let field = |name| value[name].as_str().unwrap_or_default();
    Err(refused(field("error_code"), field("message")))
}

/// Returns the string at the JSON pointer `place` in a response.
fn text(answer: &Value, place: &str) -> Result<String, Failure> {
    let found = answer.pointer(place).and_then(Value::as_str);
    found.map(str::to_owned).ok_or_else(|| Failure::Refused {
        status: StatusCode::OK,
        code: String::new(),
        message: format!("the response has no {place}"),
    })
}
