//! What happens in an experiment, written down before it is told.

use super::{
    event::{Change, Event, EventLog},
    record::file_error,
};
use crate::{environment, error::RunError};

/// What hears of each change.
pub(super) type Listener = Box<dyn FnMut(&Event) + Send>;

/// Events on their way to the file, and then to whoever listens.
pub(super) struct Journal {
    events: EventLog,
    unwritten: Vec<Event>,
    /// The first failure of writing since a write succeeded.
    lost: Option<RunError>,
    listener: Listener,
}

impl Journal {
    pub(super) fn new(events: EventLog, listener: Listener) -> Self {
        Self {
            events,
            unwritten: Vec::new(),
            lost: None,
            listener,
        }
    }

    /// Something happened now, to `task` or to the experiment.
    pub(super) fn note(&mut self, task: Option<String>, change: Change) {
        self.unwritten.push(Event {
            unix_ms: environment::unix_ms(),
            task,
            change,
        });
    }

    /// Writes down what happened, and tells it. A task of days is not ended because a disk is full.
    pub(super) fn write(&mut self) {
        if self.unwritten.is_empty() {
            return;
        }
        let events = std::mem::take(&mut self.unwritten);
        if let Err(error) = self.events.append(&events) {
            let error = file_error("write", self.events.path())(error);
            tracing::error!(%error, "what happened is not written down");
            self.lost.get_or_insert(error);
        } else {
            self.lost = None;
        }
        events.iter().for_each(&mut self.listener);
    }

    /// Writes the rest.
    ///
    /// # Errors
    /// What happened at last is not in the file.
    pub(super) fn close(mut self) -> Result<(), RunError> {
        self.write();
        self.lost.map_or(Ok(()), Err)
    }
}
