//! Weights that may still be on their way when a forward pass comes to them.

use crate::error::Result;
use std::fmt;
use std::sync::{Arc, OnceLock};

/// Blocks until the parameter of this full name, and all below it, are those behind the last step.
pub type Wait = Box<dyn Fn(&str) -> Result<()> + Send + Sync>;

/// Where a part of a model waits for its weights. Nothing is waited for until [`Arrival::of`] says how.
#[derive(Clone, Default)]
pub struct Arrival {
    prefix: String,
    wait: Arc<OnceLock<Wait>>,
}

impl Arrival {
    /// The weights of what has the full name `prefix`.
    pub(super) fn at(&self, prefix: &str) -> Self {
        Self {
            prefix: prefix.into(),
            wait: self.wait.clone(),
        }
    }

    /// From now on all parts of the model wait like this.
    pub fn of(&self, wait: Wait) {
        // A model is trained by one trainer.
        let _ = self.wait.set(wait);
    }

    /// Blocks until the weights of `part` are there.
    ///
    /// # Errors
    /// The rank that they come from failed.
    pub fn wait_for(&self, part: &str) -> Result<()> {
        match self.wait.get() {
            None => Ok(()),
            Some(wait) if self.prefix.is_empty() => wait(part),
            Some(wait) => wait(&format!("{}.{part}", self.prefix)),
        }
    }
}

impl fmt::Debug for Arrival {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arrival").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}
