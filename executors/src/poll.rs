//! Watches a job by polling, for executors without notifications.

use std::{collections::VecDeque, time::Duration};

use futures_util::stream::{self, BoxStream};
use tokio::time::sleep;

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
}

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
    /// Last reported status.
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
                        reason: error.to_string(),
                        retry_in: self.pause,
                    });
                }
            }
        }
    }

    /// Polls everything once.
    async fn poll_once(&mut self) -> Result<(), ExecutorError> {
        // The status is queried before the output, so that the end of the output is not missed.
        let status = self.executor.status(self.job).await?;
        if !std::mem::replace(&mut self.is_connected, true) {
            self.events.push_back(JobEvent::ConnectionRestored);
        }
        let has_ended = status.state.is_end();
        if self.status.as_ref() != Some(&status) && !has_ended {
            self.events.push_back(JobEvent::Status(status.clone()));
            self.status = Some(status.clone());
        }
        let mut is_silent = true;
        for (rank, offset) in &mut self.from.0 {
            let chunk = self.executor.logs(self.job, *rank, *offset).await?;
            if !chunk.bytes.is_empty() {
                is_silent = false;
                *offset = chunk.next;
                self.events.push_back(JobEvent::Output {
                    rank: *rank,
                    bytes: chunk.bytes,
                    next: chunk.next,
                });
            }
        }
        if !is_silent {
            // More output may be available already.
            self.pause = Duration::ZERO;
        } else if has_ended {
            let results = self.executor.results(self.job).await;
            match results {
                Err(error) if error.is_connection_lost() => return Err(error),
                results => self.end(status, results),
            }
        }
        Ok(())
    }

    fn end(&mut self, status: JobStatus, results: Result<JobResults, ExecutorError>) {
        self.is_over = true;
        if self.status.as_ref() != Some(&status) {
            self.events.push_back(JobEvent::Status(status.clone()));
        }
        self.events.push_back(JobEvent::Ended(Box::new(JobEnd {
            state: status.state,
            results,
        })));
    }
}
