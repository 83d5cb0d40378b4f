//! Journal of an experiment: writes each change to the timeline, then calls the listener.

use super::{
    event::{Change, Event, EventLog},
    record::file_error,
};
use crate::{environment, error::RunError};

/// Callback for each change.
pub(super) type Listener = Box<dyn FnMut(&Event) + Send>;

/// Queue of events on their way to the file and then to the listener.
pub(super) struct Journal {
    events: EventLog,
    unwritten: Vec<Event>,
    /// The first write error since the last successful write.
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

    /// Queues a change of `task` or of the experiment, with the current time.
    pub(super) fn note(&mut self, task: Option<String>, change: Change) {
        self.unwritten.push(Event {
            unix_ms: environment::unix_ms(),
            task,
            change,
        });
    }

    /// Writes the queued events and calls the listener. A write error, as on a full disk, does not stop running tasks.
    pub(super) fn write(&mut self) {
        if self.unwritten.is_empty() {
            return;
        }
        let events = std::mem::take(&mut self.unwritten);
        if let Err(error) = self.events.append(&events) {
            let error = file_error("write", self.events.path())(error);
            tracing::error!(%error, "cannot write the timeline; retrying with the next event");
            self.lost.get_or_insert(error);
        } else {
            self.lost = None;
        }
        events.iter().for_each(&mut self.listener);
    }

    /// Writes the remaining events.
    ///
    /// # Errors
    /// The last events could not be written.
    pub(super) fn close(mut self) -> Result<(), RunError> {
        self.write();
        self.lost.map_or(Ok(()), Err)
    }
}
