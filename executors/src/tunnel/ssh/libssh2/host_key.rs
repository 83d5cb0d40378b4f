//! The check of a server's key.

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
};

use ssh2::Session;

use super::settings::Endpoint;
use crate::{
    tunnel::ssh::known_hosts::{KnownHosts, Verdict, fingerprint, key_type, line},
    tunnel_error::TunnelError,
};

/// Checks the key of a server that is connected.
///
/// # Errors
/// It is unknown, changed or revoked.
pub(super) fn check_host_key(
    endpoint: &Endpoint,
    session: &Session,
    known: &KnownHosts,
    name: &str,
    is_strict: bool,
) -> Result<(), TunnelError> {
    let key = session.host_key().map(|(key, _)| key).unwrap_or_default();
    let sent = format!("{} ({})", fingerprint(key), key_type(key).unwrap_or_default());
    let place = endpoint.to_string();
    let by_hand = format!("ssh -p {} {}@{}", endpoint.port, endpoint.user, endpoint.host);
    let first_file = endpoint.known_hosts.first();
    let file = first_file.map_or_else(String::new, |file| file.display().to_string());
    match known.check(name, key) {
        Verdict::Trusted => Ok(()),
        Verdict::Unknown if !is_strict => {
            let line = line(name, key);
            let record = |file: &std::path::PathBuf| {
                if let Some(folder) = file.parent() {
                    fs::create_dir_all(folder)?;
                }
                OpenOptions::new().create(true).append(true).open(file)?.write_all(line.as_bytes())
            };
            if let Some(Err(error)) = first_file.map(record) {
                tracing::warn!("the host key of {place} cannot be recorded in {file}: {error}");
            }
            tracing::warn!("the host key of {place} is new and trusted from now on: {sent}");
            Ok(())
        }
        Verdict::Unknown => Err(TunnelError::HostKey {
            place,
            reason: format!("no key of it is in {file}; the server sent {sent}"),
            help: format!("log in once by hand, with `{by_hand}`, and compare the fingerprint that it shows"),
        }),
        Verdict::Changed(others) => Err(TunnelError::HostKey {
            place,
            reason: format!("it has changed: known is {}, the server sent {sent}", others.join(" and ")),
            help: format!(
                "somebody may listen in, or the server was set up anew: ask its administrator for its fingerprint; if it is the new \
                 one, type `ssh-keygen -f {file} -R '{name}'`, then `{by_hand}`, and compare"
            ),
        }),
        Verdict::Revoked(at) => Err(TunnelError::HostKey {
            place,
            reason: format!("{at} says that it was revoked: {sent}"),
            help: "ask the server's administrator for its new key".to_owned(),
        }),
    }
}
