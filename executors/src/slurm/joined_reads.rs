//! Reads of files of many jobs in one command: requests that come while a command runs are joined in the next one.

use std::{
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

use super::files::{Part, ReadPart, read};
use crate::{error::ExecutorError, tunnel::Tunnel};

/// Maximum number of parts of files in one command, so that answers stay small.
const MAX_PARTS: usize = 2_000;

/// Requests of the jobs of an executor that wait for the next command.
#[derive(Debug, Default)]
pub struct JoinedReads {
    waiting: Mutex<Vec<Request>>,
    /// Held during a command.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Request {
    parts: Vec<(Part, PathBuf)>,
    answer: oneshot::Sender<Result<Vec<ReadPart>, ExecutorError>>,
}

impl JoinedReads {
    /// Reads parts of files. Files that do not exist are absent.
    ///
    /// # Errors
    /// The machine cannot be reached.
    pub(super) async fn read(&self, tunnel: &dyn Tunnel, parts: Vec<(Part, PathBuf)>) -> Result<Vec<ReadPart>, ExecutorError> {
        loop {
            let (answer, mut answered) = oneshot::channel();
            self.lock().push(Request {
                parts: parts.clone(),
                answer,
            });
            let _turn = self.turn.lock().await;
            // The command before may have had this request.
            if let Ok(answer) = answered.try_recv() {
                return answer;
            }
            let requests = self.take();
            if !requests.is_empty() {
                self.answer(tunnel, requests).await;
            }
            if let Ok(answer) = answered.try_recv() {
                return answer;
            }
            // The one that had this request was dropped in the middle of its command.
        }
    }

    /// Returns the requests of the next command: the first ones, together at most [`MAX_PARTS`] if they are several.
    fn take(&self) -> Vec<Request> {
        let mut waiting = self.lock();
        waiting.retain(|request| !request.answer.is_closed());
        let mut parts = 0;
        let fits = |request: &&Request| {
            parts += request.parts.len();
            parts <= MAX_PARTS
        };
        let count = waiting.iter().take_while(fits).count().max(1).min(waiting.len());
        waiting.drain(..count).collect()
    }

    /// Runs the command of these requests and gives each its answer.
    async fn answer(&self, tunnel: &dyn Tunnel, requests: Vec<Request>) {
        let parts: Vec<_> = requests.iter().flat_map(|request| request.parts.iter().cloned()).collect();
        let mut found = match read(tunnel, &parts).await {
            Ok(found) => found.into_iter().peekable(),
            Err(error) => {
                for request in requests {
                    let _ = request.answer.send(Err(error.repeated()));
                }
                return;
            }
        };
        let mut first = 0;
        for request in requests {
            let next = first + request.parts.len();
            let own = std::iter::from_fn(|| found.next_if(|part| part.request < next));
            let own = own.map(|part| ReadPart {
                request: part.request - first,
                ..part
            });
            // A watch that has ended meanwhile needs no answer.
            let _ = request.answer.send(Ok(own.collect()));
            first = next;
        }
    }

    /// The requests are valid after a panic of another thread: every change is one insertion or removal.
    fn lock(&self) -> MutexGuard<'_, Vec<Request>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
