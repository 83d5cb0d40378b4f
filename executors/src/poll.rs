//! Watches a job by polling, for executors without notifications.

use std::{collections::VecDeque, time::Duration};

use futures_util::stream::{self, BoxStream};
use tokio::time::{Instant, sleep};

use crate::{
    error::ExecutorError,
    event::{JobEnd, JobEvent, JobResults, JobStatus, WatchFrom},
    executor::Executor,
    job::JobHandle,
};

/// Polling interval of a watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PollInterval {
    /// Pause after the first poll. It doubles with each further poll, so that the end of a short job is seen soon and a
    /// long one is not polled too often.
    pub first: Duration,
    /// Maximum pause.
    pub max: Duration,
    /// Maximum pause between two queries of the status; output is read more often. The pause doubles like the other one, and
    /// is short again after a change.
    pub max_status: Duration,
}

/// Length of a chunk of output behind which more may be available already.
const LARGE: usize = 16 << 10;

/// Watches `job` by polling its status, output and results through `executor`. Errors for which
/// [`ExecutorError::is_connection_lost`] holds become events, and the poll is repeated after a pause; any other error
/// ends the watch.
pub fn poll<'a>(
    executor: &'a dyn Executor,
    job: &'a JobHandle,
    from: WatchFrom,
    interval: PollInterval,
) -> BoxStream<'a, Result<JobEvent, ExecutorError>> {
    let poll = Poll {
        executor,
        job,
        from,
        interval,
        pause: Duration::ZERO,
        status_pause: interval.first,
        next_status: None,
        status: None,
        is_connected: true,
        is_over: false,
        events: VecDeque::new(),
    };
    Box::pin(stream::unfold(poll, async |mut poll| {
        let event = poll.next().await?;
        Some((event, poll))
    }))
}

struct Poll<'a> {
    executor: &'a dyn Executor,
    job: &'a JobHandle,
    from: WatchFrom,
    interval: PollInterval,
    /// Pause before the next poll.
    pause: Duration,
    /// Pause before the next query of the status.
    status_pause: Duration,
    /// Time of the next query of the status.
    next_status: Option<Instant>,
    /// Last status.
    status: Option<JobStatus>,
    is_connected: bool,
    is_over: bool,
    /// Events to be reported.
    events: VecDeque<JobEvent>,
}

impl Poll<'_> {
    async fn next(&mut self) -> Option<Result<JobEvent, ExecutorError>> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Some(Ok(event));
            }
            if self.is_over {
                return None;
            }
            sleep(self.pause).await;
            self.pause = (2 * self.pause).clamp(self.interval.first, self.interval.max);
            if let Err(error) = self.poll_once().await {
                if !error.is_connection_lost() {
                    self.is_over = true;
                    return Some(Err(error));
                }
                if std::mem::replace(&mut self.is_connected, false) {
                    self.pause = self.interval.first;
                    self.events.push_back(JobEvent::ConnectionLost {
                        reason: error.reason(),
                        retry_in: self.pause,
                    });
                }
            }
        }
    }

    /// Polls everything once.
    async fn poll_once(&mut self) -> Result<(), ExecutorError> {
        // The status is queried before the output, so that the end of the output is not missed.
        if let Some(status) = self.due_status().await?
            && self.status.as_ref() != Some(&status)
        {
            self.status_pause = self.interval.first;
            if !status.state.is_end() {
                self.events.push_back(JobEvent::Status(status.clone()));
            }
            self.status = Some(status);
        }
        let has_ended = self.status.as_ref().is_some_and(|status| status.state.is_end());
        let (mut is_silent, mut has_more) = (true, has_ended);
        let chunks = self.executor.output(self.job, &self.from.0).await?;
        if !std::mem::replace(&mut self.is_connected, true) {
            self.events.push_back(JobEvent::ConnectionRestored);
        }
        for (rank, chunk) in chunks {
            if !chunk.bytes.is_empty() {
                is_silent = false;
                has_more |= chunk.bytes.len() >= LARGE;
                self.from.0.insert(rank, chunk.next);
                self.events.push_back(JobEvent::Output {
                    rank,
                    bytes: chunk.bytes,
                    next: chunk.next,
                });
            }
        }
        if !is_silent {
            // Ranks that write all the time are not read all the time.
            if has_more {
                self.pause = Duration::ZERO;
            }
        } else if let Some(status) = self.status.clone().filter(|status| status.state.is_end()) {
            let results = self.executor.results(self.job).await;
            match results {
                Err(error) if error.is_connection_lost() => return Err(error),
                results => self.end(status, results),
            }
        }
        Ok(())
    }

    /// Queries the status if it is time for that. The end is not queried again.
    async fn due_status(&mut self) -> Result<Option<JobStatus>, ExecutorError> {
        let has_ended = self.status.as_ref().is_some_and(|status| status.state.is_end());
        if has_ended || self.next_status.is_some_and(|next| Instant::now() < next) {
            return Ok(None);
        }
        let status = self.executor.watched_status(self.job).await?;
        self.next_status = Instant::now().checked_add(self.status_pause);
        self.status_pause = (2 * self.status_pause).min(self.interval.max_status);
        Ok(Some(status))
    }

    fn end(&mut self, status: JobStatus, results: Result<JobResults, ExecutorError>) {
        self.is_over = true;
        self.events.push_back(JobEvent::Status(status.clone()));
        self.events.push_back(JobEvent::Ended(Box::new(JobEnd {
            state: status.state,
            results,
        })));
    }
}
