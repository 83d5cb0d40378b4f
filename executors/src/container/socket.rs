//! The socket of the Docker API.

use std::path::{Path, PathBuf};

/// Sockets of Docker and Podman, in the order in which they are tried.
const SOCKETS: &[&str] = &["/var/run/docker.sock", "/run/podman/podman.sock"];

/// Returns the socket of the API: the one that `host` names, else the first that exists of Docker's, Podman's, and those in
/// `runtime_dir` of a user without root.
pub fn default_socket(host: Option<&str>, runtime_dir: Option<&Path>) -> PathBuf {
    if let Some(host) = host.filter(|host| !host.is_empty()) {
        return host.strip_prefix("unix://").unwrap_or(host).into();
    }
    let own = ["docker.sock", "podman/podman.sock"];
    let own = runtime_dir.into_iter().flat_map(|dir| own.map(|socket| dir.join(socket)));
    let mut all = own.chain(SOCKETS.iter().map(PathBuf::from));
    all.find(|socket| socket.exists()).unwrap_or_else(|| SOCKETS[0].into())
}
