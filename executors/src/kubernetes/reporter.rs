//! Reports the events of a job to the reader of its watch.

use std::time::Duration;

use tokio::sync::mpsc;

use super::{follow::RankOutput, store::Trouble};
use crate::{error::ExecutorError, event::JobEvent};

/// Interval that is named for the next try of a lost connection.
const RETRY: Duration = Duration::from_secs(1);

/// Events of a watch.
pub(super) type Events = mpsc::Sender<Result<JobEvent, ExecutorError>>;

/// The reader of the events is gone.
#[derive(Debug)]
pub(super) struct Closed;

/// The writing end of a watch.
pub(super) struct Reporter {
    events: Events,
    /// What was reported since the connection was lost.
    trouble: Option<Trouble>,
}

impl Reporter {
    pub(super) fn new(events: Events) -> Self {
        Self { events, trouble: None }
    }

    /// Reports a lost connection, once. A refusal of the API server that follows is reported too, since only the user can mend it.
    pub(super) async fn lost(&mut self, trouble: Trouble) -> Result<(), Closed> {
        if self
            .trouble
            .as_ref()
            .is_some_and(|reported| *reported == trouble || !trouble.is_refusal)
        {
            return Ok(());
        }
        let reason = trouble.words.clone();
        self.trouble = Some(trouble);
        self.send(JobEvent::ConnectionLost { reason, retry_in: RETRY }).await
    }

    /// Reports that the connection is back, if it was lost.
    pub(super) async fn restored(&mut self) -> Result<(), Closed> {
        match self.trouble.take() {
            Some(_) => self.send(JobEvent::ConnectionRestored).await,
            None => Ok(()),
        }
    }

    /// Reports output of a rank.
    pub(super) async fn output(&self, RankOutput { rank, bytes, next }: RankOutput) -> Result<(), Closed> {
        self.send(JobEvent::Output { rank, bytes, next }).await
    }

    /// Reports an event.
    pub(super) async fn send(&self, event: JobEvent) -> Result<(), Closed> {
        self.events.send(Ok(event)).await.map_err(|_| Closed)
    }

    /// Ends the watch with an error.
    pub(super) async fn fail(&self, error: ExecutorError) -> Closed {
        // A reader that is gone needs no error.
        let _ = self.events.send(Err(error)).await;
        Closed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The API server restarts, and does not accept the token any more, which has expired.
    #[test]
    fn a_refusal_after_a_lost_connection_is_reported() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (sender, mut events) = mpsc::channel(16);
        let trouble = |words: &str, is_refusal| Trouble {
            words: words.to_owned(),
            is_refusal,
        };
        runtime.block_on(async {
            let mut reporter = Reporter::new(sender);
            for (words, is_refusal) in [
                ("reset", false),
                ("refused", false),
                ("Unauthorized", true),
                ("Unauthorized", true),
                ("refused", false),
                ("Unauthorized", true),
            ] {
                reporter.lost(trouble(words, is_refusal)).await.unwrap();
            }
            reporter.restored().await.unwrap();
            reporter.restored().await.unwrap();
            reporter.lost(trouble("reset", false)).await.unwrap();
        });
        let mut reported = Vec::new();
        while let Ok(event) = events.try_recv() {
            reported.push(match event.unwrap() {
                JobEvent::ConnectionLost { reason, .. } => reason,
                JobEvent::ConnectionRestored => "restored".to_owned(),
                other => panic!("{other:?}"),
            });
        }
        assert_eq!(reported, ["reset", "Unauthorized", "restored", "reset"]);
    }
}
