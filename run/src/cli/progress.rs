//! Progress of a run on standard output: the output of rank 0, with its steps as a progress bar.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use neva_track::Console;

/// Handle of the progress bar. The bar exists as long as the callback that [`Progress::start`] returned.
#[derive(Default)]
pub(super) struct Progress(Weak<Mutex<Console>>);

impl Progress {
    /// Starts the bar. The returned callback takes the output of rank 0.
    pub(super) fn start() -> (Self, impl FnMut(&[u8]) + Send + 'static) {
        let console = Arc::new(Mutex::new(Console::stdout()));
        let progress = Self(Arc::downgrade(&console));
        (progress, move |bytes: &[u8]| lock(&console).write(bytes))
    }

    /// Returns another handle of the same bar.
    pub(super) fn share(&self) -> Self {
        Self(Weak::clone(&self.0))
    }

    /// Hides the bar, if there is one, while `print` writes to the terminal.
    pub(super) fn suspend(&self, print: impl FnOnce()) {
        match self.0.upgrade() {
            Some(console) => lock(&console).suspend(print),
            None => print(),
        }
    }
}

fn lock(console: &Mutex<Console>) -> MutexGuard<'_, Console> {
    console.lock().unwrap_or_else(PoisonError::into_inner)
}
