//! The login with keys of files and of the agent.

use std::{fs, path::Path};

use base64::Engine as _;
use ssh2::Session;

use super::{connection::ConnectError, settings::Endpoint};
use crate::{tunnel::ssh::known_hosts::key_type, tunnel_error::TunnelError};

/// Logs in with the keys of files and of the agent.
///
/// # Errors
/// The connection is cut, or the server accepts no key.
pub(super) fn login(endpoint: &Endpoint, session: &Session) -> Result<(), ConnectError> {
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

fn key_error(file: &Path, error: &ssh2::Error) -> String {
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
