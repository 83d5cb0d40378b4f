//! What a client of SSH does for a tunnel.

use std::{fmt, time::Instant};

use super::sftp::SftpTransport;
use crate::{error::ExecutorError, executor::BoxFuture, tunnel::shell::RawOutput};

/// A client of SSH, which connects by itself.
pub(super) trait Transport: fmt::Debug + Send + Sync {
    /// Returns the place for messages: `user@host:port`.
    fn place(&self) -> String;

    /// Has the login shell run `line` with `input`, and returns what it answers.
    ///
    /// # Errors
    /// The machine cannot be reached, or refuses the login; the command may have run only if
    /// [`ExecutorError::is_connection_lost`] holds.
    fn exchange<'a>(&'a self, line: &'a str, input: &'a [u8], deadline: Instant) -> BoxFuture<'a, Result<RawOutput, ExecutorError>>;

    /// Returns the file transfer for accounts without a shell, if the client has one.
    fn sftp(&self) -> Option<&dyn SftpTransport>;
}
