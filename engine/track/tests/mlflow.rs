//! Logging to a real MLflow server, and to servers that fail.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod environment;
mod metrics;
mod server;

use std::collections::BTreeMap;
use std::io;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Once, mpsc};
use std::time::{Duration, Instant};

use metrics::{step, validation};
use neva_schemas::MlflowLogger;
use neva_track::{Logger, Mlflow, MlflowCredentials, Outcome, StepMetrics, ValidationMetrics};
use serde::Deserialize;
use server::{MlflowServer, Request};

fn config(uri: &str) -> MlflowLogger {
    MlflowLogger {
        tracking_uri: uri.to_owned(),
        experiment_name: "photos".to_owned(),
        run_name: None,
        tags: BTreeMap::from([("team".to_owned(), "vision".to_owned())]),
    }
}

fn start(uri: &str) -> Mlflow {
    Mlflow::start(&config(uri), "default", &BTreeMap::new(), MlflowCredentials::default())
}

/// Returns everything logged with `tracing` from now on.
fn log() -> String {
    static TEXT: Mutex<Vec<u8>> = Mutex::new(Vec::new());
    static START: Once = Once::new();
    struct Writer;
    impl io::Write for Writer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            TEXT.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    START.call_once(|| {
        tracing_subscriber::fmt()
            .with_env_filter("trace")
            .with_ansi(false)
            .with_writer(|| Writer)
            .init()
    });
    String::from_utf8(TEXT.lock().unwrap().clone()).unwrap()
}

/// Returns the warnings that name `uri`.
fn warnings(uri: &str) -> Vec<String> {
    let warnings = log();
    let warnings = warnings.lines().filter(|line| line.contains("WARN") && line.contains(uri));
    let text = |line: &str| {
        line.split_once(" neva_track::mlflow")
            .unwrap()
            .1
            .split_once(": ")
            .unwrap()
            .1
            .to_owned()
    };
    warnings.map(text).collect()
}

#[derive(Debug, Deserialize)]
struct Read {
    status: String,
    params: BTreeMap<String, String>,
    tags: BTreeMap<String, String>,
    metrics: BTreeMap<String, Vec<(u64, String)>>,
}

/// A run as read by MLflow's own client.
#[track_caller]
fn read(uri: &str, name: &str) -> Read {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/read_run.py");
    let output = Command::new(environment::python())
        .args(["-B", script, uri, "photos", name])
        .env("MLFLOW_DISABLE_TELEMETRY", "true")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn the_real_server_receives_everything() {
    log();
    let server = MlflowServer::start();
    // More of both than fit into one request.
    let mut params: BTreeMap<_, _> = (0..150).map(|index| (format!("finetune.x{index}"), index.to_string())).collect();
    params.insert("finetune.data.paths[0]".to_owned(), "é".repeat(7000));
    params.insert("empty".to_owned(), String::new());
    let mut mlflow = Mlflow::start(&config(&server.uri), "first", &params, MlflowCredentials::default());
    for number in 0..300 {
        mlflow.step(&step(number)).unwrap();
    }
    let losses = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY];
    for (number, reduced_train_loss) in (300..).zip(losses) {
        let metrics = StepMetrics {
            reduced_train_loss: Some(reduced_train_loss),
            ..step(number)
        };
        mlflow.step(&metrics).unwrap();
    }
    let unlabelled = StepMetrics {
        reduced_train_loss: None,
        grad_norm: None,
        ..step(303)
    };
    mlflow.step(&unlabelled).unwrap();
    let without_loss = ValidationMetrics {
        val_loss: None,
        ..validation(303)
    };
    mlflow.validation(&validation(300)).unwrap();
    mlflow.validation(&without_loss).unwrap();
    mlflow.finish(Outcome::Finished).unwrap();
    assert_eq!((mlflow.lost(), warnings(&server.uri)), (0, Vec::new()));

    let run = read(&server.uri, "first");
    assert_eq!(run.status, "FINISHED");
    assert_eq!(run.params.len(), 152);
    assert_eq!(run.params["finetune.x149"], "149");
    assert_eq!(run.params["finetune.data.paths_0_"], "é".repeat(6000));
    assert_eq!(run.params["empty"], "");
    assert_eq!(
        (run.tags["team"].as_str(), run.tags["mlflow.source.name"].as_str()),
        ("vision", "neva-run")
    );
    assert_eq!(run.metrics.len(), step(0).scalars().len() + validation(0).scalars().len());
    assert_eq!(run.metrics["val_loss"], [(300, "304.0".to_owned())]);
    for (index, (tag, _)) in step(0).scalars().into_iter().enumerate() {
        let values: Vec<_> = run.metrics[tag]
            .iter()
            .take(300)
            .map(|(step, value)| (*step, value.parse().unwrap()))
            .collect();
        let expect: Vec<_> = (0..300).map(|number| (number, step(number).scalars()[index].1)).collect();
        assert_eq!(values, expect, "{tag}");
    }
    let last: Vec<_> = run.metrics["reduced_train_loss"][300..]
        .iter()
        .map(|(_, value)| value.as_str())
        .collect();
    // MLflow's database has no infinity: it stores the largest number instead.
    assert_eq!(last, ["nan", "1.7976931348623157e+308", "-1.7976931348623157e+308"]);

    // Unmeasured values are not sent.
    assert_eq!((run.metrics["grad_norm"].len(), run.metrics["lr"].len()), (303, 304));

    // More runs of the experiment, which exists now.
    for (name, outcome, status) in [("failed", Outcome::Failed, "FAILED"), ("stopped", Outcome::Stopped, "KILLED")] {
        let config = MlflowLogger {
            run_name: Some(name.to_owned()),
            ..config(&server.uri)
        };
        let mut mlflow = Mlflow::start(&config, "default", &BTreeMap::new(), MlflowCredentials::default());
        mlflow.finish(outcome).unwrap();
        assert_eq!(read(&server.uri, name).status, status);
    }
    drop(Mlflow::start(
        &config(&server.uri),
        "dropped",
        &BTreeMap::new(),
        MlflowCredentials::default(),
    ));
    assert_eq!(read(&server.uri, "dropped").status, "FAILED");
}

/// Logs `steps` steps and finishes; returns the number of dropped values and the time that finishing took.
fn train(mlflow: &mut Mlflow, steps: u64) -> (usize, Duration) {
    for number in 0..steps {
        mlflow.step(&step(number)).unwrap();
    }
    let begin = Instant::now();
    mlflow.finish(Outcome::Finished).unwrap();
    (mlflow.lost(), begin.elapsed())
}

/// Checks that a server at `uri` that accepts nothing does not block training, and delays its end by ten seconds only.
#[track_caller]
fn check_unavailable(uri: &str) {
    log();
    let values = 6000 * step(0).scalars().len();
    let mut mlflow = start(uri);
    let begin = Instant::now();
    for number in 0..6000 {
        mlflow.step(&step(number)).unwrap();
    }
    // More than the queue holds.
    assert_eq!(mlflow.lost(), values - 50_000);
    assert!(begin.elapsed() < Duration::from_secs(5), "training is held up");
    let (lost, end) = train(&mut mlflow, 0);
    assert_eq!(lost, values);
    assert!(end < Mlflow::FINISH_TIMEOUT + Duration::from_secs(5), "{end:?}");
    let warnings = warnings(uri);
    assert_eq!(warnings.last(), Some(&format!("{values} values did not reach MLflow at {uri}")));
}

#[test]
fn a_missing_server_is_reported_once() {
    let uri = format!("http://127.0.0.1:{}", server::free_port());
    check_unavailable(&uri);
    let warnings = warnings(&uri);
    let expect = format!("MLflow at {uri} does not answer: io: Connection refused (os error 111); training continues");
    assert!(warnings.len() == 2 && warnings[0].starts_with(&expect), "{warnings:#?}");
}

#[test]
fn a_server_that_never_answers_is_not_waited_for() {
    check_unavailable(&server::fake(|_| None));
}

/// Starts a server of one experiment. Its response is that of `answer` if it returns one. The receiver gets all
/// requests.
fn working_server(answer: impl Fn(&Request) -> Option<(u16, String)> + Send + 'static) -> (String, mpsc::Receiver<Request>) {
    let (sender, requests) = mpsc::channel();
    let uri = server::fake(move |request| {
        let body = match request.path.split('?').next().unwrap() {
            "experiments/get-by-name" => r#"{"experiment": {"experiment_id": "7"}}"#,
            "runs/create" => r#"{"run": {"info": {"run_id": "r1"}}}"#,
            _ => "{}",
        };
        let answer = answer(&request).unwrap_or((200, body.to_owned()));
        let _ = sender.send(request);
        Some(answer)
    });
    (uri, requests)
}

fn metrics_in(requests: &mpsc::Receiver<Request>) -> usize {
    requests
        .try_iter()
        .map(|request| request.body["metrics"].as_array().map_or(0, Vec::len))
        .sum()
}

#[test]
fn a_recovered_server_receives_everything() {
    log();
    let failures = AtomicUsize::new(0);
    // Every second request fails.
    let (uri, requests) = working_server(move |_| {
        failures
            .fetch_add(1, Ordering::Relaxed)
            .is_multiple_of(2)
            .then(|| (503, "busy".to_owned()))
    });
    let (lost, _) = train(&mut start(&uri), 200);
    assert_eq!(lost, 0);
    // Each batch was sent twice.
    assert_eq!(metrics_in(&requests), 2 * 200 * step(0).scalars().len());
    assert_eq!(
        warnings(&uri),
        [format!(
            "MLflow at {uri} does not answer: 503 Service Unavailable; training continues, and values are sent when it does"
        )]
    );
}

#[test]
fn a_refused_run_is_not_retried() {
    log();
    #[track_caller]
    fn check(status: u16, body: &'static str, expect: &str) {
        let (uri, requests) = working_server(move |_| Some((status, body.to_owned())));
        let (lost, end) = train(&mut start(&uri), 3);
        assert_eq!(lost, 3 * step(0).scalars().len());
        assert!(end < Duration::from_secs(5), "{end:?}");
        assert_eq!(requests.try_iter().count(), 1);
        assert_eq!(warnings(&uri)[0], format!("MLflow at {uri} refuses the experiment: {expect}"));
    }
    check(
        403,
        r#"{"error_code": "PERMISSION_DENIED", "message": "not yours"}"#,
        "403 Forbidden, PERMISSION_DENIED: not yours",
    );
    let elsewhere = "the response is not MLflow's; check `log.mlflow.tracking_uri`";
    check(200, "<html>", &format!("200 OK: {elsewhere}"));
    check(404, "", &format!("404 Not Found: {elsewhere}"));
    check(200, "{}", "200 OK: the response has no /experiment_id");
}

#[test]
fn a_refused_batch_affects_no_other() {
    log();
    let batches = Arc::new(AtomicUsize::new(0));
    let (uri, requests) = working_server(move |request| {
        let first = request.body["metrics"].is_array() && batches.fetch_add(1, Ordering::Relaxed) == 0;
        first.then(|| (400, r#"{"error_code": "INVALID_PARAMETER_VALUE", "message": "no"}"#.to_owned()))
    });
    let (lost, _) = train(&mut start(&uri), 200);
    let sent = metrics_in(&requests);
    assert_eq!(sent, 200 * step(0).scalars().len());
    assert!(lost > 0 && lost <= 1000, "{lost}");
}

#[test]
fn credentials_are_sent_and_never_printed() {
    log();
    #[track_caller]
    fn check(variables: &[(&str, &str)], expect: Option<&str>, debug: &str) {
        let lookup = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        let credentials = MlflowCredentials::read(lookup);
        assert_eq!(format!("{credentials:?}"), debug);
        let (uri, requests) = working_server(|_| None);
        Mlflow::start(&config(&uri), "run", &BTreeMap::new(), credentials)
            .finish(Outcome::Finished)
            .unwrap();
        let sent: Vec<_> = requests.try_iter().map(|request| request.authorization).collect();
        assert_eq!(sent, vec![expect.map(str::to_owned); 3], "{variables:?}");
    }
    let (token, name, password) = ("MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD");
    check(&[], None, "MlflowCredentials(none)");
    check(&[(token, "hidden1\n")], Some("Bearer hidden1"), "MlflowCredentials(token)");
    check(
        &[(name, "ann"), (password, "hidden2"), (token, "hidden1")],
        Some("Basic YW5uOmhpZGRlbjI="),
        "MlflowCredentials(password)",
    );
    check(
        &[(name, "ann"), (token, "hidden1")],
        Some("Bearer hidden1"),
        "MlflowCredentials(token)",
    );
    check(&[(token, "hidden3\u{7f}")], None, "MlflowCredentials(token)");
    for secret in ["hidden", "aGlkZGVu", "YW5uOmhpZGRlbjI"] {
        let text = log();
        let lines: Vec<_> = text.lines().filter(|line| line.contains(secret)).collect();
        assert_eq!(lines, Vec::<&str>::new());
    }
}
