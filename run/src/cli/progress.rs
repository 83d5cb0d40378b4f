//! What a user watches while a run goes on: the output of rank 0, and its steps as a bar.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use neva_track::Console;

/// Standard output while a run goes on. The bar is there for as long as what [`Progress::start`] gave: it ends
/// with the run.
#[derive(Default)]
pub(super) struct Progress(Weak<Mutex<Console>>);

impl Progress {
    /// Begins, and takes the output of rank 0.
    pub(super) fn start() -> (Self, impl FnMut(&[u8]) + Send + 'static) {
        let console = Arc::new(Mutex::new(Console::stdout()));
        let progress = Self(Arc::downgrade(&console));
        (progress, move |bytes: &[u8]| lock(&console).write(bytes))
    }

    /// Another one for the same bar.
    pub(super) fn share(&self) -> Self {
        Self(Weak::clone(&self.0))
    }

    /// Takes the bar away, where there is one, while `print` writes to the terminal.
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
