//! The limit on the size of a file, `ulimit -f`.

use crate::error::{EngineError, Result};
use neva_schemas::{SIGNAL_MASKS_FILE, SignalMasks};
use signal_hook::consts::SIGXFSZ;
use signal_hook::flag;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Makes a file that exceeds the limit an error of its writer from now on. Without this it ends the process.
///
/// # Errors
/// The signal's handler cannot be installed.
pub(crate) fn report_file_limit() -> Result<()> {
    let masks = SignalMasks::parse(&std::fs::read_to_string(SIGNAL_MASKS_FILE).unwrap_or_default());
    if masks.ignores(SIGXFSZ) {
        return Ok(());
    }
    let registered = flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)));
    let failed = |error| EngineError::Machine(format!("cannot listen for signals: {error}"));
    registered.map(drop).map_err(failed)
}
