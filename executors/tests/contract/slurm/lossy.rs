//! A tunnel that loses connections.

use std::{
    collections::VecDeque,
    io,
    path::Path,
    sync::{Arc, Mutex},
};

use neva_executors::{
    BoxFuture, ExecutorError,
    tunnel::{CommandOutput, Tunnel, TunnelCommand, TunnelFile},
};

use crate::fixture::Loss;

/// Passes everything on to another tunnel, and loses some of it.
#[derive(Debug)]
pub(crate) struct LossyTunnel {
    inner: Arc<dyn Tunnel>,
    losses: Mutex<VecDeque<Loss>>,
}

impl LossyTunnel {
    pub(crate) fn new(inner: Arc<dyn Tunnel>) -> Self {
        Self {
            inner,
            losses: Mutex::default(),
        }
    }

    /// Loses the next requests or replies.
    pub(crate) fn lose(&self, losses: &[Loss]) {
        self.losses.lock().unwrap().extend(losses);
    }

    async fn pass<R>(&self, request: impl Future<Output = Result<R, ExecutorError>>) -> Result<R, ExecutorError> {
        let loss = self.losses.lock().unwrap().pop_front();
        let lost = |reason: &str| ExecutorError::Connection {
            place: self.inner.place(),
            source: io::Error::new(io::ErrorKind::ConnectionReset, reason),
        };
        match loss {
            Some(Loss::OfRequest) => Err(lost("the request did not arrive")),
            Some(Loss::OfReply) => {
                request.await?;
                Err(lost("the reply did not arrive"))
            }
            None => request.await,
        }
    }
}

impl Tunnel for LossyTunnel {
    fn place(&self) -> String {
        self.inner.place()
    }

    fn run<'a>(&'a self, command: &'a TunnelCommand) -> BoxFuture<'a, Result<CommandOutput, ExecutorError>> {
        Box::pin(self.pass(self.inner.run(command)))
    }

    fn write<'a>(&'a self, files: &'a [TunnelFile]) -> BoxFuture<'a, Result<(), ExecutorError>> {
        Box::pin(self.pass(self.inner.write(files)))
    }

    fn upload<'a>(&'a self, from: &'a Path, to: &'a Path) -> BoxFuture<'a, Result<(), ExecutorError>> {
        Box::pin(self.pass(self.inner.upload(from, to)))
    }

    fn read<'a>(&'a self, file: &'a Path, offset: u64, limit: u64) -> BoxFuture<'a, Result<Option<Vec<u8>>, ExecutorError>> {
        Box::pin(self.pass(self.inner.read(file, offset, limit)))
    }
}
