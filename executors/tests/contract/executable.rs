//! Programs on this machine.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

/// Writes a program.
pub(crate) fn write_executable(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}
