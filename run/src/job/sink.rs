//! Writes the output of a job without blocking on its reader.

use std::{pin::Pin, time::Duration};

use tokio::{task::JoinHandle, time::timeout};

use super::Output;

/// Time that a stopped run waits for the reader of its output.
const LAST_OUTPUT_TIMEOUT: Duration = Duration::from_secs(2);

/// Maximum number of bytes that are queued for a reader.
const MAX_QUEUED: usize = 1 << 20;

/// Writer of rank 0's output on a blocking thread. A reader that does not read (a full pipe, a terminal stopped with
/// Ctrl-S) blocks neither signals nor the watching of ranks. While one chunk is being written no further one is read,
/// so a slow reader loses nothing.
pub(super) struct Sink {
    idle: Option<Output>,
    busy: Option<JoinHandle<Output>>,
    /// Bytes that arrived while a chunk was being written.
    queued: Vec<u8>,
}

impl Sink {
    pub(super) fn new(output: Output) -> Self {
        Self {
            idle: Some(output),
            busy: None,
            queued: Vec::new(),
        }
    }

    /// Returns true while a chunk is being written.
    pub(super) fn is_busy(&self) -> bool {
        self.busy.is_some()
    }

    /// Queues a chunk behind the one that is being written. Bytes beyond the limit of the queue are dropped.
    pub(super) fn write(&mut self, bytes: Vec<u8>) {
        let free = MAX_QUEUED.saturating_sub(self.queued.len());
        self.queued.extend_from_slice(&bytes[..bytes.len().min(free)]);
        self.start();
    }

    fn start(&mut self) {
        if self.queued.is_empty() {
            return;
        }
        let Some(mut output) = self.idle.take() else { return };
        let bytes = std::mem::take(&mut self.queued);
        self.busy = Some(tokio::task::spawn_blocking(move || {
            output(&bytes);
            output
        }));
    }

    /// Waits until the current chunk is written; forever if there is none.
    pub(super) async fn written(&mut self) {
        let Some(busy) = &mut self.busy else {
            return std::future::pending().await;
        };
        let output = Pin::new(busy).await;
        self.busy = None;
        self.idle = Some(output.unwrap_or_else(|error| {
            tracing::error!(%error, "the output of the run is no longer shown");
            Box::new(|_| {})
        }));
        self.start();
    }

    /// Waits until all output is written.
    pub(super) async fn idle(&mut self) {
        while self.is_busy() {
            self.written().await;
        }
    }

    /// Waits like [`idle`](Self::idle), for at most [`LAST_OUTPUT_TIMEOUT`].
    pub(super) async fn idle_or_timeout(&mut self) {
        let _ = timeout(LAST_OUTPUT_TIMEOUT, self.idle()).await;
    }

    /// Drops the output callback, which may print a last line.
    pub(super) fn close(&mut self) {
        if let Some(output) = self.idle.take() {
            self.busy = Some(tokio::task::spawn_blocking(move || {
                drop(output);
                Box::new(|_: &[u8]| {}) as Output
            }));
        }
    }
}
