//! The one place where this crate reads the environment of its process. Names are in
//! [`neva_schemas::env`].

use std::{io, path::PathBuf};

use jiff::{ZonedDateTime, civil::DateTime};

/// The variable `name`; one that is not UTF-8 counts as not set.
#[expect(clippy::disallowed_methods, reason = "this is the place; the names are in neva_schemas::env")]
pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Whether the variable `name` is set, to whatever bytes.
pub(crate) fn is_set(name: &str) -> bool {
    std::env::var_os(name).is_some()
}

/// The working directory.
pub(crate) fn working_directory() -> io::Result<PathBuf> {
    std::env::current_dir()
}

/// The file of this program.
pub(crate) fn program() -> Option<PathBuf> {
    std::env::current_exe().ok()
}

/// Local time.
pub(crate) fn now() -> DateTime {
    ZonedDateTime::now().datetime()
}

/// Milliseconds since the epoch.
pub(crate) fn unix_ms() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or(0)
}
