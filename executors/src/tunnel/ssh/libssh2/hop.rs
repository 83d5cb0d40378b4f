//! The way through a jump host: a thread carries bytes between a channel of its session and a local socket.

use std::{
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::net::UnixStream,
    },
    time::Instant,
};

use rustix::event::{PollFd, PollFlags, poll};
use ssh2::{BlockDirections, Channel, Session};

use super::connection::{Connection, left_ms};

/// Returns a stream to a host as `connection`'s host sees it. The connection lives as long as the stream.
pub(super) fn through(connection: Connection, host: &str, port: u16, deadline: Instant) -> io::Result<UnixStream> {
    let Connection { session, socket } = connection;
    session.set_timeout(left_ms(deadline));
    let channel = session.channel_direct_tcpip(host, port, None)?;
    let (ours, theirs) = UnixStream::pair()?;
    theirs.set_nonblocking(true)?;
    session.set_blocking(false);
    std::thread::Builder::new().name("ssh jump".to_owned()).spawn(move || {
        // Its end closes the stream, which the session beyond it reports.
        let _ = carry(&session, &socket, channel, theirs);
    })?;
    Ok(ours)
}

/// Bytes on their way in one direction.
#[derive(Default)]
struct Pipe {
    bytes: Vec<u8>,
    is_closed: bool,
}

fn carry(session: &Session, socket: &OwnedFd, mut channel: Channel, mut stream: UnixStream) -> io::Result<()> {
    let (mut up, mut down) = (Pipe::default(), Pipe::default());
    let mut buffer = vec![0; 32 << 10];
    loop {
        let mut is_idle = true;
        if up.bytes.is_empty() && !up.is_closed {
            match stream.read(&mut buffer) {
                Ok(0) => up.is_closed = true,
                Ok(n) => up.bytes.extend_from_slice(&buffer[..n]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        if !up.bytes.is_empty() {
            match channel.write(&up.bytes) {
                Ok(n) => {
                    up.bytes.drain(..n);
                    is_idle = false;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        if down.bytes.is_empty() && !down.is_closed {
            match channel.read(&mut buffer) {
                Ok(0) => down.is_closed = channel.eof(),
                Ok(n) => down.bytes.extend_from_slice(&buffer[..n]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        if !down.bytes.is_empty() {
            match stream.write(&down.bytes) {
                Ok(n) => {
                    down.bytes.drain(..n);
                    is_idle = false;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        if up.is_closed || (down.is_closed && down.bytes.is_empty()) {
            return Ok(());
        }
        if is_idle {
            wait(session, socket, &stream, (&up, &down))?;
        }
    }
}

/// Waits until one side has bytes that the other can take, or room; at most a second, since a side may have been ready a
/// moment ago.
fn wait(session: &Session, socket: &OwnedFd, stream: &UnixStream, (up, down): (&Pipe, &Pipe)) -> io::Result<()> {
    let wanted = |input: bool, output: bool| {
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::IN, input);
        flags.set(PollFlags::OUT, output);
        flags
    };
    let sends = matches!(session.block_directions(), BlockDirections::Outbound | BlockDirections::Both);
    // The far side answers what is sent, with room for more.
    let far = wanted(down.bytes.is_empty() || !up.bytes.is_empty(), sends);
    let near = wanted(up.bytes.is_empty(), !down.bytes.is_empty());
    let mut fds = [PollFd::from_borrowed_fd(socket.as_fd(), far), PollFd::new(stream, near)];
    let second = rustix::time::Timespec { tv_sec: 1, tv_nsec: 0 };
    poll(&mut fds, Some(&second))?;
    Ok(())
}
