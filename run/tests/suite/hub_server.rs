//! A hub on this machine: serves a repository, with the faults of a test.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Write as _},
    net::{TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use serde_json::json;
use sha1::Sha1;
use sha2::{Digest as _, Sha256};

use crate::{import::hub_tensors, tensor_files::safetensors};

/// Commit of every repository.
pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    /// Path and query.
    pub(crate) path: String,
    /// First requested byte.
    pub(crate) from: usize,
    pub(crate) token: Option<String>,
}

/// A reply.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Vec<u8>,
    /// Closes the connection after so many bytes of the body.
    pub(crate) cut: Option<usize>,
}

impl Reply {
    pub(crate) fn status(status: u16, headers: &[(&'static str, &str)]) -> Self {
        Self {
            status,
            headers: headers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect(),
            ..Self::default()
        }
    }
}

/// Files by name.
#[derive(Debug, Clone, Default)]
pub(crate) struct Repository {
    pub(crate) files: BTreeMap<String, Vec<u8>>,
}

impl Repository {
    /// Returns a small model with its tokenizer, and files that are not needed.
    pub(crate) fn model() -> Self {
        let weights = safetensors(hub_tensors());
        let files: [(&str, &[u8]); 7] = [
            (
                "config.json",
                include_bytes!("../../../tests/fixtures/hf/llava_clip_llama/config.json"),
            ),
            ("model.safetensors", &weights),
            (
                "tokenizer.json",
                include_bytes!("../../../engine/data/tokenizers/mistral_2k/tokenizer.json"),
            ),
            (
                "tokenizer_config.json",
                include_bytes!("../../../engine/data/tokenizers/mistral_2k/tokenizer_config.json"),
            ),
            ("pytorch_model.bin", b"a pickle"),
            ("README.md", b"read me"),
            ("onnx/model.safetensors", b"another folder"),
        ];
        Self {
            files: files.into_iter().map(|(name, bytes)| (name.to_owned(), bytes.to_vec())).collect(),
        }
    }

    /// Returns the reply of the hub.
    pub(crate) fn answer(&self, request: &Request) -> Reply {
        if request.path.starts_with("/api/models/") {
            let siblings: Vec<_> = self.files.iter().map(|(name, bytes)| sibling(name, bytes)).collect();
            let body = json!({"sha": COMMIT, "siblings": siblings}).to_string().into_bytes();
            return Reply {
                status: 200,
                body,
                ..Reply::default()
            };
        }
        let name = request.path.split_once(&format!("/resolve/{COMMIT}/")).map_or("", |(_, name)| name);
        match self.files.get(name) {
            None => Reply::status(404, &[("X-Error-Code", "EntryNotFound")]),
            Some(bytes) if request.from > 0 => Reply {
                status: 206,
                headers: vec![(
                    "Content-Range",
                    format!("bytes {}-{}/{}", request.from, bytes.len() - 1, bytes.len()),
                )],
                body: bytes[request.from..].to_vec(),
                cut: None,
            },
            Some(bytes) => Reply {
                status: 200,
                body: bytes.clone(),
                ..Reply::default()
            },
        }
    }
}

/// Returns a file in the list; large ones have SHA-256, others git's SHA-1.
fn sibling(name: &str, bytes: &[u8]) -> serde_json::Value {
    let mut sibling = json!({"rfilename": name, "size": bytes.len(), "blobId": git_hash(bytes)});
    if name.ends_with(".safetensors") {
        sibling["lfs"] = json!({"sha256": sha256(bytes), "size": bytes.len(), "pointerSize": 134});
    }
    sibling
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}

pub(crate) fn git_hash(bytes: &[u8]) -> String {
    let mut hasher = Sha1::new();
    hasher.update(format!("blob {}\0", bytes.len()));
    hasher.update(bytes);
    format!("{:x}", hasher.finalize())
}

/// A server that runs until it is dropped.
pub(crate) struct HubServer {
    pub(crate) uri: String,
    requests: Arc<Mutex<Vec<Request>>>,
    stops: Arc<AtomicBool>,
}

impl HubServer {
    /// Starts a server. `answer` receives each request, and the number of earlier requests of the same path.
    pub(crate) fn start(answer: impl Fn(&Request, usize) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let uri = format!("http://{}", listener.local_addr().unwrap());
        let (requests, stops) = (Arc::new(Mutex::new(Vec::<Request>::new())), Arc::new(AtomicBool::new(false)));
        let (log, end, answer) = (Arc::clone(&requests), Arc::clone(&stops), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if end.load(Ordering::Relaxed) {
                    return;
                }
                let (log, answer) = (Arc::clone(&log), Arc::clone(&answer));
                std::thread::spawn(move || {
                    let Some(request) = read(&stream) else { return };
                    let before = {
                        let mut log = log.lock().unwrap();
                        let before = log.iter().filter(|other| other.path == request.path).count();
                        log.push(request.clone());
                        before
                    };
                    write(stream, &answer(&request, before));
                });
            }
        });
        Self { uri, requests, stops }
    }

    /// Starts a hub without faults.
    pub(crate) fn of(repository: Repository) -> Self {
        Self::start(move |request, _| repository.answer(request))
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    /// Returns the names of the requested files.
    pub(crate) fn files(&self) -> Vec<String> {
        let name = |request: Request| Some(request.path.split_once("/resolve/")?.1.split_once('/')?.1.to_owned());
        self.requests().into_iter().filter_map(name).collect()
    }
}

impl Drop for HubServer {
    fn drop(&mut self) {
        self.stops.store(true, Ordering::Relaxed);
        // Wakes the thread that waits for a connection.
        let _ = TcpStream::connect(self.uri.trim_start_matches("http://"));
    }
}

fn read(stream: &TcpStream) -> Option<Request> {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let path = lines.next()?.split(' ').nth(1)?.to_owned();
    let mut request = Request {
        path,
        from: 0,
        token: None,
    };
    for line in lines.take_while(|line| !line.is_empty()) {
        let (name, value) = line.split_once(": ")?;
        match name.to_ascii_lowercase().as_str() {
            "range" => request.from = value.trim_start_matches("bytes=").trim_end_matches('-').parse().ok()?,
            "authorization" => request.token = Some(value.to_owned()),
            _ => {}
        }
    }
    Some(request)
}

fn write(mut stream: TcpStream, reply: &Reply) {
    let headers: String = reply.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let (status, length) = (reply.status, reply.body.len());
    let head = format!("HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n");
    let body = &reply.body[..reply.cut.unwrap_or(reply.body.len())];
    // The client may have closed the connection.
    let _ = stream
        .write_all(head.as_bytes())
        .and_then(|()| stream.write_all(body))
        .and_then(|()| stream.flush());
}
