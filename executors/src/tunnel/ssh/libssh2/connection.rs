//! A connection that is logged in, and the errors on the way to it.

use std::{io, os::fd::OwnedFd, time::Instant};

use ssh2::Session;

use crate::tunnel_error::TunnelError;

/// A connection with a login.
pub(super) struct Connection {
    /// Session on the host.
    pub(super) session: Session,
    /// Its socket, to wait on.
    pub(super) socket: OwnedFd,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").finish_non_exhaustive()
    }
}

/// Error of connecting.
#[derive(Debug)]
pub(super) enum ConnectError {
    /// The host does not answer; a later try may succeed.
    Lost {
        /// The host.
        place: String,
        /// The cause.
        source: io::Error,
    },
    /// The host's key is not trusted, or it refused the login.
    Refused(TunnelError),
}

/// Returns the time until `deadline` in milliseconds, at least 1: libssh2 takes 0 for no limit.
pub(super) fn left_ms(deadline: Instant) -> u32 {
    let left = deadline.saturating_duration_since(Instant::now()).as_millis();
    u32::try_from(left).unwrap_or(u32::MAX).max(1)
}
