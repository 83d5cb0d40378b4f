//! An API server on loopback, in a process of its own: one job whose pods write a line in each interval.

use std::{
    fmt::Write as _,
    io::{self, BufRead as _, BufReader, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    thread::{sleep, spawn},
    time::Duration,
};

use serde_json::{Value, json};

/// Argument with which this program is the server.
const SERVE: &str = "serve";
/// Pause between two lines of a pod.
const INTERVAL: Duration = Duration::from_millis(500);
/// Line of a rank.
const LINE: &str = "step 1234, loss 2.34567, learning rate 1.0e-4, 12.3 samples/s";

/// A started server, which ends with this value.
pub(crate) struct ApiServer {
    process: Child,
    /// Its address.
    pub(crate) url: String,
}

impl ApiServer {
    /// Starts this program again, as a server.
    pub(crate) fn start() -> Self {
        let program = std::env::current_exe().unwrap();
        let mut process = Command::new(program).arg(SERVE).stdout(Stdio::piped()).spawn().unwrap();
        let mut url = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut url).unwrap();
        Self {
            process,
            url: url.trim().to_owned(),
        }
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Serves if this process was started for it; returns false otherwise.
pub(crate) fn serve(jobs: &[Value], pods: &[Value]) -> bool {
    if std::env::args().nth(1).as_deref() != Some(SERVE) {
        return false;
    }
    let list = |kind: &str, items: &[Value]| {
        json!({"kind": kind, "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": items}).to_string()
    };
    let lists = (list("JobList", jobs), list("PodList", pods));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    println!("http://{}", listener.local_addr().unwrap());
    for connection in listener.incoming().flatten() {
        let (jobs, pods) = lists.clone();
        // A client that is gone ends its connection.
        let _ = spawn(move || answer(connection, &jobs, &pods));
    }
    true
}

/// Answers the requests of a connection.
fn answer(mut connection: TcpStream, jobs: &str, pods: &str) -> io::Result<()> {
    let mut lines = BufReader::new(connection.try_clone()?).lines();
    while let Some(request) = lines.next().transpose()? {
        for header in lines.by_ref() {
            if header?.is_empty() {
                break;
            }
        }
        let path = request.split(' ').nth(1).unwrap_or_default();
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        if let Some((_, pod)) = path
            .trim_end_matches("/log")
            .rsplit_once("/pod-")
            .filter(|_| path.ends_with("/log"))
        {
            return write_lines(&mut connection, pod);
        }
        if query.contains("watch=") {
            connection.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")?;
            // Nothing changes.
            sleep(Duration::from_secs(3600));
            return Ok(());
        }
        let text = if path.ends_with("/jobs") { jobs } else { pods };
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            text.len()
        );
        connection.write_all(head.as_bytes())?;
        connection.write_all(text.as_bytes())?;
    }
    Ok(())
}

/// Writes the output of the rank `pod`, which is alone in its pod.
fn write_lines(connection: &mut TcpStream, pod: &str) -> io::Result<()> {
    connection.set_nodelay(true)?;
    connection.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n")?;
    for number in 0.. {
        let mut line = String::new();
        // Writing to a string succeeds.
        let _ = writeln!(
            line,
            "2026-11-24T10:{:02}:{:02}.000000000Z {pod}|{LINE}",
            number / 60 % 60,
            number % 60
        );
        connection.write_all(format!("{:x}\r\n{line}\r\n", line.len()).as_bytes())?;
        sleep(INTERVAL);
    }
    Ok(())
}
