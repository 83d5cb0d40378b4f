//! Name of the rank program.

use std::sync::OnceLock;

/// File name of the default rank program.
const DEFAULT_NAME: &str = "neva-rank";

/// File name of the rank program of a custom launcher. Set once at start-up.
static CUSTOM_NAME: OnceLock<&'static str> = OnceLock::new();

/// Sets the name of the rank program of a custom launcher.
pub(crate) fn set_name(rank: &'static str) {
    // Set once at start-up.
    let _ = CUSTOM_NAME.set(rank);
}

/// Returns the file name of the rank program.
pub(crate) fn name() -> &'static str {
    CUSTOM_NAME.get().copied().unwrap_or(DEFAULT_NAME)
}
