//! Connecting, through jump hosts if there are some.

use std::{
    fs, io,
    net::{TcpStream, ToSocketAddrs as _},
    os::fd::{AsFd, AsRawFd},
    time::{Duration, Instant},
};

use ssh2::{MethodType, Session};

use super::{
    connection::{ConnectError, Connection, left_ms},
    hop,
    host_key::check_host_key,
    login::login,
    settings::{Endpoint, Settings},
};
use crate::tunnel::ssh::known_hosts::{KnownHosts, host_name};

/// Key types in the order of OpenSSH's preference.
const KEY_TYPES: &[&str] = &[
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "rsa-sha2-512",
    "rsa-sha2-256",
    "ssh-rsa",
];

/// Connects to the target through all jump hosts.
pub(super) fn open(settings: &Settings, deadline: Instant) -> Result<Connection, ConnectError> {
    let deadline = deadline.min(Instant::now() + settings.connect_timeout);
    let mut current: Option<Connection> = None;
    for endpoint in settings.jumps.iter().chain([&settings.target]) {
        let lost = |source| ConnectError::Lost {
            place: endpoint.to_string(),
            source,
        };
        let connection = match current.take() {
            None => handshake(endpoint, connect(endpoint, deadline).map_err(lost)?, settings, deadline)?,
            Some(before) => {
                let stream = hop::through(before, &endpoint.host, endpoint.port, deadline).map_err(lost)?;
                handshake(endpoint, stream, settings, deadline)?
            }
        };
        login(endpoint, &connection.session)?;
        current = Some(connection);
    }
    let connection = current.ok_or_else(|| ConnectError::Lost {
        place: settings.target.to_string(),
        source: io::ErrorKind::NotConnected.into(),
    })?;
    if let Some(keepalive) = settings.keepalive {
        let seconds = u32::try_from(keepalive.as_secs()).unwrap_or(u32::MAX);
        connection.session.set_keepalive(true, seconds);
    }
    Ok(connection)
}

fn connect(endpoint: &Endpoint, deadline: Instant) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in (endpoint.host.as_str(), endpoint.port).to_socket_addrs()? {
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        match TcpStream::connect_timeout(&address, left) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                // A line that died without a word ends a wait in the kernel.
                rustix::net::sockopt::set_socket_keepalive(&stream, true)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn handshake(
    endpoint: &Endpoint,
    stream: impl AsRawFd + AsFd + 'static,
    settings: &Settings,
    deadline: Instant,
) -> Result<Connection, ConnectError> {
    let failed = |source: io::Error| ConnectError::Lost {
        place: endpoint.to_string(),
        source,
    };
    let lost = |error: ssh2::Error| failed(error.into());
    let socket = stream.as_fd().try_clone_to_owned().map_err(failed)?;
    let mut known = KnownHosts::default();
    for file in &endpoint.known_hosts {
        if let Ok(text) = fs::read_to_string(file) {
            known.add(file, &text);
        }
    }
    let name = host_name(endpoint.alias.as_deref().unwrap_or(&endpoint.host), endpoint.port);
    let mut session = Session::new().map_err(lost)?;
    session.set_tcp_stream(stream);
    session.set_timeout(left_ms(deadline));
    // A server has several keys: it shall show one of a type that is known.
    let of_type = |wanted: &str| {
        known
            .of(&name)
            .any(|entry| entry.key_type == wanted || (entry.key_type == "ssh-rsa" && wanted.contains("rsa")))
    };
    let (first, rest): (Vec<_>, Vec<_>) = KEY_TYPES.iter().copied().partition(|wanted| of_type(wanted));
    session
        .method_pref(MethodType::HostKey, &[first, rest].concat().join(","))
        .map_err(lost)?;
    session.handshake().map_err(lost)?;
    check_host_key(endpoint, &session, &known, &name, settings.is_strict).map_err(ConnectError::Refused)?;
    Ok(Connection { session, socket })
}
