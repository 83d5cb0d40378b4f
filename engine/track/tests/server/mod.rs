//! Servers for tests: MLflow's own, and one with the responses of a test.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::environment;

/// The real server; it is stopped when this is dropped, even after a panic.
pub(crate) struct MlflowServer {
    pub(crate) uri: String,
    child: Child,
    _dir: tempfile::TempDir,
}

impl MlflowServer {
    pub(crate) fn start() -> Self {
        const START_TIMEOUT: Duration = Duration::from_secs(300);
        let dir = tempfile::tempdir().unwrap();
        let port = free_port();
        let store = format!("sqlite:///{}", dir.path().join("mlflow.db").display());
        let mut command = Command::new(environment::python());
        command
            .args([
                "-B",
                "-m",
                "mlflow",
                "server",
                "--host",
                "127.0.0.1",
                "--workers",
                "1",
                "--port",
                &port.to_string(),
            ])
            .args(["--backend-store-uri", &store, "--artifacts-destination"])
            .arg(dir.path().join("artifacts"))
            // Disables telemetry, and jobs, which need more packages.
            .envs([
                ("MLFLOW_DISABLE_TELEMETRY", "true"),
                ("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false"),
            ])
            .env("HOME", dir.path())
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0);
        let child = command.spawn().unwrap();
        let mut server = Self {
            uri: format!("http://127.0.0.1:{port}"),
            child,
            _dir: dir,
        };
        let (sender, lines) = mpsc::channel();
        let output = BufReader::new(server.child.stderr.take().unwrap());
        // Reads to the end, because a full pipe would block the server.
        std::thread::spawn(move || output.lines().map_while(Result::ok).for_each(|line| drop(sender.send(line))));
        let deadline = Instant::now() + START_TIMEOUT;
        let mut log = String::new();
        while !log.contains("Uvicorn running on") {
            match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => log = log + &line + "\n",
                Err(error) => panic!("`mlflow server` did not start within {START_TIMEOUT:?} ({error}):\n{log}"),
            }
        }
        server
    }
}

impl Drop for MlflowServer {
    fn drop(&mut self) {
        // The server has several processes.
        let group = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        let _ = self.child.wait();
    }
}

/// Returns an unused port below 32768, where the system's ephemeral ports start.
pub(crate) fn free_port() -> u16 {
    static ASKED: AtomicU16 = AtomicU16::new(0);
    let first = 10_000 + (std::process::id() % 2000) as u16 * 10;
    let mut ports = std::iter::repeat_with(|| first + ASKED.fetch_add(1, Ordering::Relaxed));
    ports.find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok()).unwrap()
}

/// A client's request.
#[derive(Debug)]
pub(crate) struct Request {
    /// Path and query, without the API's prefix.
    pub(crate) path: String,
    pub(crate) authorization: Option<String>,
    pub(crate) body: serde_json::Value,
}

/// Starts a server that answers each request with the status and body of `answer`, or never for `None`. Its threads end
/// with the test's process.
pub(crate) fn fake(answer: impl Fn(Request) -> Option<(u16, String)> + Send + 'static) -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let uri = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let mut unanswered = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            match answer(read_request(&stream)) {
                None => unanswered.push(stream),
                Some((status, body)) => {
                    let length = body.len();
                    let text = format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}");
                    stream.write_all(text.as_bytes()).unwrap();
                }
            }
        }
    });
    uri
}

fn read_request(stream: &TcpStream) -> Request {
    let mut reader = BufReader::new(stream);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let header = |name: &str| {
        let mut pairs = lines.iter().filter_map(|line| line.split_once(": "));
        pairs
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.to_owned())
    };
    let length = header("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    Request {
        path: lines[0].split(' ').nth(1).unwrap().replace("/api/2.0/mlflow/", ""),
        authorization: header("authorization"),
        body: serde_json::from_slice(&body).unwrap_or_default(),
    }
}
