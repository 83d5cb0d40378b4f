//! Access to the environment of this process; the only place where this crate reads it. Variable names are in
//! [`neva_schemas::env`].

use std::{
    io,
    path::{Path, PathBuf},
};

use jiff::{ZonedDateTime, civil::DateTime};
use neva_schemas::env;

/// Returns the variable `name`; one that is not UTF-8 counts as not set.
#[expect(clippy::disallowed_methods, reason = "the only place; the names are in neva_schemas::env")]
pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Returns whether the terminal supports neither colours nor cursor movement.
pub(crate) fn terminal_is_dumb() -> bool {
    variable("TERM").is_some_and(|terminal| terminal == "dumb")
}

/// Returns the path in the variable `name`, UTF-8 or not; an empty one counts as not set.
pub(crate) fn path(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// Returns the path with `~` replaced by the user's home; the path itself if no home is known.
pub(crate) fn expand_home(file: &Path) -> PathBuf {
    match (file.strip_prefix("~"), path(env::HOME)) {
        (Ok(rest), Some(home)) => home.join(rest),
        _ => file.to_owned(),
    }
}

/// Returns whether the variable `name` is set, to UTF-8 or not.
pub(crate) fn is_set(name: &str) -> bool {
    std::env::var_os(name).is_some()
}

/// Returns the working directory.
pub(crate) fn working_directory() -> io::Result<PathBuf> {
    std::env::current_dir()
}

/// Returns the file of this program.
pub(crate) fn program() -> Option<PathBuf> {
    std::env::current_exe().ok()
}

/// Returns the local time.
pub(crate) fn now() -> DateTime {
    ZonedDateTime::now().datetime()
}

/// Returns the milliseconds since the epoch.
pub(crate) fn unix_ms() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or(0)
}
