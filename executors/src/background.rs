//! Processes that a shell starts in the background.

use neva_schemas::StopSignal;

/// Returns the signal that ends them: they ignore SIGINT, as POSIX wants it.
pub(crate) fn stop_signal(signal: StopSignal) -> StopSignal {
    match signal {
        StopSignal::Interrupt => StopSignal::Terminate,
        other => other,
    }
}
