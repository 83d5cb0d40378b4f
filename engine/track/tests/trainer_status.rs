//! Progress of a TrainJob, posted to a fake server.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    sync::mpsc,
    time::{Duration, Instant},
};

use neva_schemas::env;
use neva_track::{Logger as _, Outcome, StepMetrics, TrainerStatus, TrainerStatusServer, ValidationMetrics};
use serde_json::Value;

/// Longest wait for a post.
const DEADLINE: Duration = Duration::from_secs(60);

/// A post: its request line and headers, its body, and when it came.
struct Post {
    head: Vec<String>,
    body: Value,
    at: Instant,
}

impl Post {
    fn header(&self, name: &str) -> Option<&str> {
        let mut pairs = self.head.iter().filter_map(|line| line.split_once(": "));
        pairs.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

/// Starts a server that answers each post with the next of `answers`, then with 200.
fn server(answers: &'static [u16]) -> (String, mpsc::Receiver<Post>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let url = format!(
        "http://{}/apis/trainer.kubeflow.org/v1alpha1/namespaces/training/trainjobs/neva/status",
        listener.local_addr().unwrap()
    );
    let (sender, posts) = mpsc::channel();
    std::thread::spawn(move || {
        let mut answers = answers.iter();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let post = read(&stream);
            let answer = answers.next().unwrap_or(&200);
            let text = format!("HTTP/1.1 {answer} X\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{{}}");
            stream.write_all(text.as_bytes()).unwrap();
            if sender.send(post).is_err() {
                return;
            }
        }
    });
    (url, posts)
}

fn read(stream: &TcpStream) -> Post {
    let mut reader = BufReader::new(stream);
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        match line.trim_end() {
            "" => break,
            line => head.push(line.to_owned()),
        }
    }
    let mut post = Post {
        head,
        body: Value::Null,
        at: Instant::now(),
    };
    let length = post.header("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    post.body = serde_json::from_slice(&body).unwrap();
    post
}

fn metrics(step: u64) -> StepMetrics {
    StepMetrics {
        step,
        reduced_train_loss: Some(2.5),
        lr: 1e-3,
        grad_norm: None,
        loss_scale: None,
        consumed_samples: 8 * (step + 1),
        seconds: 0.1,
        tokens_per_second: 100.0,
        images_per_second: None,
        data_wait: 0.125,
        row_fill: 0.5,
        samples: 32,
        label_tokens: 10,
        zero_label_samples: 0,
        text_only_microbatches: 0,
        skipped_steps: 0,
        peak_memory_gib: 0.5,
    }
}

#[test]
fn progress_is_posted_at_most_once_in_five_seconds_with_the_renewed_token() {
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    fs::write(&token, "first-token\n").unwrap();
    // A server that fails once ends neither training nor the posts.
    let (url, posts) = server(&[500]);
    let variables = [
        (env::KUBEFLOW_TRAINER_SERVER_URL, url),
        (env::KUBEFLOW_TRAINER_SERVER_TOKEN, token.display().to_string()),
    ];
    let lookup = |name: &str| Some(variables.iter().find(|(known, _)| *known == name)?.1.clone());
    let found = TrainerStatusServer::read(lookup).unwrap();
    let mut status = TrainerStatus::start(found, 40);
    status.step(&metrics(0)).unwrap();
    let first = posts.recv_timeout(DEADLINE).unwrap();
    assert!(first.head[0].starts_with("POST /apis/trainer.kubeflow.org/v1alpha1/namespaces/training/trainjobs/neva/status "));
    assert_eq!(first.header("authorization"), Some("Bearer first-token"));
    let content = first.header("content-type").unwrap();
    assert!(content.starts_with("application/json"), "{content}");

    fs::write(&token, "second-token").unwrap();
    status
        .validation(&ValidationMetrics {
            step: 8,
            val_loss: Some(3.25),
            val_label_tokens: 1,
            val_samples: 1,
            seconds: 0.1,
        })
        .unwrap();
    for step in 1..10 {
        status.step(&metrics(step)).unwrap();
    }
    let second = posts.recv_timeout(DEADLINE).unwrap();
    assert!(second.at - first.at >= Duration::from_secs(5), "{:?}", second.at - first.at);
    assert_eq!(second.header("authorization"), Some("Bearer second-token"));
    let progress = &second.body["trainerStatus"];
    assert_eq!(progress["progressPercentage"], 25, "{progress}");
    assert!(progress["estimatedRemainingSeconds"].as_u64().is_some(), "{progress}");
    let metric = |name: &str| {
        let metrics = progress["metrics"].as_array().unwrap();
        metrics
            .iter()
            .find(|metric| metric["name"] == name)
            .map(|metric| metric["value"].clone())
    };
    assert_eq!(metric("reduced_train_loss"), Some("2.5".into()));
    assert_eq!(metric("val_loss"), Some("3.25".into()));
    assert_eq!(metric("grad_norm"), None);
    assert!(progress["lastUpdatedTime"].as_str().unwrap().ends_with('Z'), "{progress}");

    // The last progress is sent before the run ends.
    status.step(&metrics(39)).unwrap();
    status.finish(Outcome::Finished).unwrap();
    let last = posts.recv_timeout(Duration::ZERO).unwrap();
    assert_eq!(last.body["trainerStatus"]["progressPercentage"], 100);
    assert!(last.at - second.at >= Duration::from_secs(5));
    assert!(posts.recv_timeout(Duration::from_millis(100)).is_err());
}

#[test]
fn a_run_outside_of_a_trainjob_posts_nothing() {
    assert_eq!(TrainerStatusServer::read(|_| None), None);
    assert_eq!(TrainerStatusServer::read(|_| Some(String::new())), None);
}

/// A missing authority or token is logged, and the run goes on.
#[test]
fn files_that_are_missing_end_no_run() {
    let (url, posts) = server(&[]);
    for (ca_file, token_file) in [(Some("/nowhere/ca.crt".into()), None), (None, Some("/nowhere/token".into()))] {
        let server = TrainerStatusServer {
            url: url.clone(),
            ca_file,
            token_file,
        };
        let mut status = TrainerStatus::start(server, 1);
        status.step(&metrics(0)).unwrap();
        status.finish(Outcome::Failed).unwrap();
    }
    assert!(posts.try_recv().is_err());
}
