//! The one place where the engine reads the process's environment.

/// The value of an environment variable, if it is set and UTF-8.
#[expect(clippy::disallowed_methods, reason = "this is the place")]
pub(super) fn lookup(name: &str) -> Option<String> {
    std::env::var(name).ok()
}
