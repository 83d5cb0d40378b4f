//! Answers of the controller that many watched jobs share: one query a second at most, however many jobs are watched.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::queue::{QueueRow, queue};
use crate::{error::ExecutorError, tunnel::Tunnel};

/// Age up to which an answer counts as the present state of a watched job.
const FRESH: Duration = Duration::from_secs(1);

/// Time after which a job that nobody asked for is not queried any more.
const FORGET: Duration = Duration::from_secs(120);

/// Watched jobs, and the latest answer about them.
#[derive(Debug, Default)]
pub struct Recent {
    state: Mutex<State>,
    /// Held during a query, so that others wait for its answer.
    query: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    /// Watched jobs, and when they were asked for.
    asked: BTreeMap<String, Instant>,
    answer: Option<Answer>,
}

#[derive(Debug, Clone)]
struct Answer {
    at: Instant,
    /// Jobs that were asked for.
    ids: Arc<[String]>,
    rows: Arc<[QueueRow]>,
}

impl Recent {
    /// Returns the rows of a job, at most a second old.
    ///
    /// # Errors
    /// The controller cannot be reached.
    pub(super) async fn rows(&self, tunnel: &dyn Tunnel, id: &str) -> Result<Arc<[QueueRow]>, ExecutorError> {
        if let Some(rows) = self.known(id) {
            return Ok(rows);
        }
        let _query = self.query.lock().await;
        // Another job may have asked meanwhile.
        if let Some(rows) = self.known(id) {
            return Ok(rows);
        }
        let ids = self.ids();
        let words: Vec<&str> = ids.iter().map(String::as_str).collect();
        let rows: Arc<[QueueRow]> = queue(tunnel, &words).await?.into();
        let at = Instant::now();
        self.lock().answer = Some(Answer {
            at,
            ids,
            rows: Arc::clone(&rows),
        });
        Ok(rows)
    }

    /// Notes that a job is watched, and returns the latest answer if it is fresh and about that job.
    fn known(&self, id: &str) -> Option<Arc<[QueueRow]>> {
        let mut state = self.lock();
        let now = Instant::now();
        state.asked.insert(id.to_owned(), now);
        let answer = state.answer.as_ref()?;
        (answer.at.elapsed() < FRESH && answer.ids.iter().any(|known| known == id)).then(|| Arc::clone(&answer.rows))
    }

    /// Returns the jobs that are watched at present.
    fn ids(&self) -> Arc<[String]> {
        let mut state = self.lock();
        state.asked.retain(|_, at| at.elapsed() < FORGET);
        state.asked.keys().cloned().collect()
    }

    /// The state is valid after a panic of another thread: every change is one insertion or removal.
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
