//! Connecting: the way through jump hosts, the check of the host's key, and the login.

use std::{
    fs, io,
    net::{TcpStream, ToSocketAddrs as _},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    time::{Duration, Instant},
};

use ssh2::{MethodType, Session};

use super::{
    hop,
    host_key::check_host_key,
    settings::{Endpoint, Settings},
};
use crate::{
    tunnel::ssh::known_hosts::{KnownHosts, host_name, key_type},
    tunnel_error::TunnelError,
};

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

impl Connection {
    /// Connects to the target through all jump hosts.
    pub(super) fn open(settings: &Settings, deadline: Instant) -> Result<Self, ConnectError> {
        let deadline = deadline.min(Instant::now() + settings.connect_timeout);
        let mut current: Option<Self> = None;
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
}

/// Returns the time until `deadline` in milliseconds, at least 1: libssh2 takes 0 for no limit.
pub(super) fn left_ms(deadline: Instant) -> u32 {
    let left = deadline.saturating_duration_since(Instant::now()).as_millis();
    u32::try_from(left).unwrap_or(u32::MAX).max(1)
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

/// Logs in with the keys of files and of the agent.
fn login(endpoint: &Endpoint, session: &Session) -> Result<(), ConnectError> {
    let mut tried = Vec::new();
    let by_file = |tried: &mut Vec<String>| {
        endpoint.keys.iter().any(|file| match file.is_file() {
            false => {
                if endpoint.keys_are_named {
                    tried.push(format!("{}: there is no such file", file.display()));
                }
                false
            }
            true => match session.userauth_pubkey_file(&endpoint.user, None, file, None) {
                Ok(()) => true,
                Err(error) => {
                    tried.push(format!("{}: {}", file.display(), key_error(file, &error)));
                    false
                }
            },
        })
    };
    // As OpenSSH: keys that the user named come first.
    let order = if endpoint.keys_are_named { [true, false] } else { [false, true] };
    for is_file in order {
        let done = match is_file {
            true => by_file(&mut tried),
            false => endpoint.uses_agent && by_agent(endpoint, session, &mut tried),
        };
        if done && session.authenticated() {
            return Ok(());
        }
    }
    let methods = match session.auth_methods(&endpoint.user) {
        Ok(methods) => methods.to_owned(),
        Err(error) if is_lost(&error) => {
            return Err(ConnectError::Lost {
                place: endpoint.to_string(),
                source: error.into(),
            });
        }
        Err(_) => String::new(),
    };
    let asks = methods.contains("keyboard-interactive") || methods.contains("password");
    let help = if asks {
        "the server asks questions at a login: set `program: openssh`, which uses a connection that you opened yourself".to_owned()
    } else {
        format!(
            "add your public key on the server, name its private key with `identity`, or add it to the agent with `ssh-add`; \
             `ssh -v -p {} {}@{}` shows what the server wants",
            endpoint.port, endpoint.user, endpoint.host
        )
    };
    let tried = if tried.is_empty() {
        "no key was found".to_owned()
    } else {
        tried.join("; ")
    };
    Err(ConnectError::Refused(TunnelError::Login {
        place: endpoint.to_string(),
        reason: format!(
            "{tried} (it accepts {})",
            if methods.is_empty() { "nothing that was tried" } else { &methods }
        ),
        help,
    }))
}

/// Returns true for the error of a connection that was cut: disconnected, receive, send, timeout.
fn is_lost(error: &ssh2::Error) -> bool {
    matches!(error.code(), ssh2::ErrorCode::Session(-13 | -43 | -7 | -9))
}

fn key_error(file: &std::path::Path, error: &ssh2::Error) -> String {
    let is_encrypted = fs::read_to_string(file).is_ok_and(|text| is_encrypted(&text));
    if is_encrypted {
        format!("it has a passphrase: `ssh-add {}` gives it to the agent", file.display())
    } else if error.code() == ssh2::ErrorCode::Session(-18) {
        "the server does not accept it".to_owned()
    } else {
        error.message().to_owned()
    }
}

/// Returns true if a private key has a passphrase: old formats say so, and OpenSSH's names a cipher.
fn is_encrypted(text: &str) -> bool {
    use base64::Engine as _;
    if text.contains("ENCRYPTED") {
        return true;
    }
    let body: String = text.lines().filter(|line| !line.starts_with("-----")).collect();
    let Ok(bytes) = base64::engine::general_purpose::STANDARD.decode(body.trim()) else {
        return false;
    };
    bytes
        .strip_prefix(b"openssh-key-v1\0")
        .and_then(key_type)
        .is_some_and(|cipher| cipher != "none")
}

fn by_agent(endpoint: &Endpoint, session: &Session, tried: &mut Vec<String>) -> bool {
    let mut login = || -> Result<bool, ssh2::Error> {
        let mut agent = session.agent()?;
        if let Some(socket) = &endpoint.agent {
            agent.set_identity_path(socket)?;
        }
        agent.connect()?;
        agent.list_identities()?;
        for key in agent.identities()? {
            if agent.userauth(&endpoint.user, &key).is_ok() {
                return Ok(true);
            }
            tried.push(format!("{} of the agent: the server does not accept it", key.comment()));
        }
        Ok(false)
    };
    // Without an agent there is nothing to try.
    login().unwrap_or(false)
}
