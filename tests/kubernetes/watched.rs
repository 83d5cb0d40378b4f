//! A launcher whose messages are read while it runs.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    process::{Child, Command},
    sync::mpsc::{Receiver, channel},
    thread::{JoinHandle, spawn},
    time::Instant,
};

use neva_tests::{Ended, finish, start};

/// Lines of a launcher's standard error, as they come.
pub(crate) struct Watched {
    child: Option<Child>,
    lines: Receiver<String>,
    seen: String,
    /// Reads standard output, which may be more than a pipe holds.
    stdout: Option<JoinHandle<String>>,
}

impl Watched {
    /// Starts a launcher.
    pub(crate) fn start(command: Command) -> Self {
        let mut child = start(command);
        let (sender, lines) = channel();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let mut stdout = child.stdout.take().unwrap();
        let stdout = spawn(move || {
            let mut text = String::new();
            stdout.read_to_string(&mut text).unwrap();
            text
        });
        Self {
            child: Some(child),
            lines,
            seen: String::new(),
            stdout: Some(stdout),
        }
    }

    /// Waits until all of `texts` were printed, at most until `deadline`.
    #[track_caller]
    pub(crate) fn wait(&mut self, texts: &[&str], deadline: Instant) {
        let missing = |seen: &str| texts.iter().any(|text| !plain(seen).contains(text));
        while missing(&self.seen) {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => self.seen += &format!("{line}\n"),
                Err(_) if !missing(&self.seen) => break,
                Err(error) => panic!("{texts:?} were not printed in time ({error}): {}", self.seen),
            }
        }
    }

    /// Asks the launcher to stop its job, and waits for the end of both.
    pub(crate) fn stop(self) -> Ended {
        stop(self.child.as_ref().expect("it was not waited for"));
        self.finish()
    }

    /// Waits for the end of the launcher, and returns its exit code and output.
    pub(crate) fn finish(mut self) -> Ended {
        let child = self.child.take().expect("it was not waited for");
        let mut ended = finish(child);
        self.seen.extend(self.lines.iter().map(|line| line + "\n"));
        ended.stderr.clone_from(&self.seen);
        ended.stdout = self.stdout.take().expect("it was not waited for").join().unwrap();
        ended
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Asks a launcher to stop.
pub(crate) fn stop(launcher: &Child) {
    let status = Command::new("kill").args(["-TERM", &launcher.id().to_string()]).status().unwrap();
    assert!(status.success());
}

/// Returns a text without line breaks and frames.
pub(crate) fn plain(text: &str) -> String {
    text.split_whitespace().filter(|word| *word != "│").collect::<Vec<_>>().join(" ")
}
