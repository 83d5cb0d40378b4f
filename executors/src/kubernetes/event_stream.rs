//! Stream of the events that a task reports.

use futures_util::stream;
use tokio::{sync::mpsc, task::AbortHandle};

use super::reporter::Events;
use crate::{error::ExecutorError, event::JobEvent, executor::JobEvents};

/// Events that wait for their reader. A slow reader delays the task, and loses nothing.
const EVENTS: usize = 64;

/// Returns the events that `task` reports. It is started with the first read, and ended when the stream is dropped.
pub(super) fn event_stream<T>(task: impl FnOnce(Events) -> T + Send + 'static) -> JobEvents<'static>
where
    T: Future<Output = ()> + Send + 'static,
{
    Box::pin(stream::unfold(State::New(task), async |state| {
        let (mut receiver, ends) = match state {
            State::New(task) => {
                let (sender, receiver) = mpsc::channel(EVENTS);
                (receiver, Ends(tokio::spawn(task(sender)).abort_handle()))
            }
            State::Started(receiver, ends) => (receiver, ends),
        };
        let event = receiver.recv().await?;
        Some((event, State::Started(receiver, ends)))
    }))
}

enum State<F> {
    New(F),
    Started(mpsc::Receiver<Result<JobEvent, ExecutorError>>, Ends),
}

/// Ends the task when the stream is dropped.
struct Ends(AbortHandle);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.abort();
    }
}
