//! One command over a session: input, both outputs and the end, without one blocking another.

use std::{
    io::{self, Read as _, Write as _},
    os::fd::{AsFd as _, OwnedFd},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, poll};
use ssh2::{BlockDirections, Channel, Session};

use super::connection::{Connection, left_ms};
use crate::tunnel::shell::RawOutput;

/// Time to close a channel after its end.
const CLOSE: Duration = Duration::from_secs(5);

/// Time between two looks whether the result is still wanted.
const LOOK: Duration = Duration::from_millis(500);

/// Limits of an exchange.
pub(super) struct Limits<'a> {
    /// Its end.
    pub(super) deadline: Instant,
    /// Time between two keepalive messages, if they are wanted.
    pub(super) keepalive: Option<Duration>,
    /// False once nobody waits for the result.
    pub(super) is_wanted: &'a AtomicBool,
}

/// Opens a channel for `line`. Nothing of the command has run if this fails: its script is sent later.
pub(super) fn start(session: &Session, line: &str, deadline: Instant) -> io::Result<Channel> {
    session.set_blocking(true);
    session.set_timeout(left_ms(deadline));
    let mut channel = session.channel_session()?;
    channel.exec(line)?;
    Ok(channel)
}

/// Sends `input`, reads until the command ends, and returns its answer, and whether the session can be used again. If the
/// connection is cut, the answer has no code.
pub(super) fn communicate(
    connection: &Connection,
    mut channel: Channel,
    input: &[u8],
    limits: &Limits<'_>,
) -> io::Result<(RawOutput, bool)> {
    let session = &connection.session;
    let deadline = limits.deadline;
    session.set_blocking(false);
    let mut raw = RawOutput::default();
    let mut rest = Some(input);
    let mut buffer = vec![0; 64 << 10];
    while !channel.eof() {
        let mut is_idle = true;
        match send(&mut channel, &mut rest) {
            Ok(sent) => is_idle &= !sent,
            Err(error) if is_blocked(&error) => {}
            // The command does not read its input, or the connection is cut, which the next read reports.
            Err(_) => rest = None,
        }
        for is_stdout in [true, false] {
            let read = match is_stdout {
                true => channel.read(&mut buffer),
                false => channel.stderr().read(&mut buffer),
            };
            match read {
                Ok(0) => {}
                Ok(n) => {
                    let output = if is_stdout { &mut raw.stdout } else { &mut raw.stderr };
                    output.extend_from_slice(&buffer[..n]);
                    is_idle = false;
                }
                Err(error) if is_blocked(&error) => {}
                Err(_) => return Ok((raw, false)),
            }
        }
        if is_idle && !channel.eof() {
            if Instant::now() >= deadline || !limits.is_wanted.load(Ordering::Relaxed) {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "the command did not end in time"));
            }
            if wait(session, &connection.socket, limits).is_err() {
                return Ok((raw, false));
            }
        }
    }
    session.set_blocking(true);
    session.set_timeout(left_ms(deadline.min(Instant::now() + CLOSE)));
    let is_closed = channel.close().and_then(|()| channel.wait_close()).is_ok();
    raw.signal = channel.exit_signal().ok().and_then(|signal| signal.exit_signal);
    // libssh2 says 0 also where the server sent no code: a signal, or a cut. The markers of the answer tell them apart.
    raw.code = channel.exit_status().ok().filter(|_| is_closed && raw.signal.is_none());
    Ok((raw, is_closed))
}

/// Sends some of the rest of the input, and then its end. Returns false if nothing is left to do.
fn send(channel: &mut Channel, rest: &mut Option<&[u8]>) -> io::Result<bool> {
    let Some(bytes) = *rest else { return Ok(false) };
    if bytes.is_empty() {
        channel.send_eof()?;
        *rest = None;
    } else {
        let sent = channel.write(&bytes[..bytes.len().min(256 << 10)])?;
        *rest = bytes.get(sent..);
    }
    Ok(true)
}

fn is_blocked(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}

/// Waits for the connection, at most until a keepalive message is due.
fn wait(session: &Session, socket: &OwnedFd, limits: &Limits<'_>) -> io::Result<()> {
    let mut left = limits.deadline.saturating_duration_since(Instant::now()).min(LOOK);
    if limits.keepalive.is_some() {
        // Blocked is no error here: the message goes out with the next one.
        let next = session.keepalive_send().unwrap_or(1);
        left = left.min(Duration::from_secs(next.max(1).into()));
    }
    let mut events = PollFlags::IN;
    if matches!(session.block_directions(), BlockDirections::Outbound | BlockDirections::Both) {
        events |= PollFlags::OUT;
    }
    let timeout = rustix::time::Timespec::try_from(left).unwrap_or(rustix::time::Timespec { tv_sec: 1, tv_nsec: 0 });
    poll(&mut [PollFd::from_borrowed_fd(socket.as_fd(), events)], Some(&timeout))?;
    Ok(())
}
