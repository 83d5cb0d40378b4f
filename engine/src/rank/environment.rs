//! Reads the environment of the process. No other module of the engine does.

/// Returns the value of an environment variable if it is set and UTF-8.
#[expect(clippy::disallowed_methods, reason = "this is the place")]
pub(super) fn lookup(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Returns whether an environment variable is set, to any bytes.
pub(super) fn is_set(name: &str) -> bool {
    std::env::var_os(name).is_some()
}
