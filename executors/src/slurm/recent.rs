//! States of the jobs that are watched, with one query for all of them: at most one a second, however many jobs are watched
//! and however many of them end at the same time.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::{handle::SlurmJob, query};
use crate::{error::ExecutorError, event::JobStatus, tunnel::Tunnel};

/// Age up to which an answer counts as the present state of a watched job.
const FRESH: Duration = Duration::from_secs(1);

/// Time after which a job that nobody asked for is not queried any more.
const FORGET: Duration = Duration::from_secs(120);

/// Watched jobs, and the latest answer about each.
#[derive(Debug, Default)]
pub struct Recent {
    jobs: Mutex<BTreeMap<SlurmJob, Watched>>,
    /// Held during a query, so that others wait for its answer.
    query: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Watched {
    /// Time of the last request for it.
    asked: Instant,
    answer: Option<Answer>,
}

#[derive(Debug)]
struct Answer {
    at: Instant,
    status: Result<JobStatus, ExecutorError>,
}

impl Answer {
    /// Returns whether the job need not be queried again: it has ended, or is unknown.
    fn is_last(&self) -> bool {
        match &self.status {
            Ok(status) => status.state.is_end(),
            Err(error) => !error.is_connection_lost(),
        }
    }
}

impl Recent {
    /// Returns the status of a job: its end, or a state at most a second old.
    ///
    /// # Errors
    /// The controller cannot be reached, or does not know the job.
    pub(super) async fn status(&self, tunnel: &dyn Tunnel, job: &SlurmJob) -> Result<JobStatus, ExecutorError> {
        if let Some(status) = self.known(job) {
            return status;
        }
        let _query = self.query.lock().await;
        // Another job may have asked meanwhile.
        if let Some(status) = self.known(job) {
            return status;
        }
        let jobs = self.unanswered();
        let statuses = query::statuses(tunnel, &jobs).await;
        self.record(&jobs, statuses);
        self.known(job)
            .unwrap_or_else(|| Err(ExecutorError::UnknownJob { job: job.handle() }))
    }

    /// Notes that a job is watched, and returns the latest answer about it if that still counts. A last answer is given once.
    fn known(&self, job: &SlurmJob) -> Option<Result<JobStatus, ExecutorError>> {
        let mut jobs = self.lock();
        let asked = Instant::now();
        let watched = jobs.entry(job.clone()).or_insert(Watched { asked, answer: None });
        watched.asked = asked;
        let answer = watched.answer.as_ref()?;
        if answer.is_last() {
            return jobs.remove(job)?.answer.map(|answer| answer.status);
        }
        let status = || match &answer.status {
            Ok(status) => Ok(status.clone()),
            Err(error) => Err(error.repeated()),
        };
        (answer.at.elapsed() < FRESH).then(status)
    }

    /// Returns the watched jobs whose last state is not known.
    fn unanswered(&self) -> Vec<SlurmJob> {
        let mut jobs = self.lock();
        jobs.retain(|_, watched| watched.asked.elapsed() < FORGET);
        let open = jobs
            .iter()
            .filter(|(_, watched)| !watched.answer.as_ref().is_some_and(Answer::is_last));
        open.map(|(job, _)| job.clone()).collect()
    }

    fn record(&self, asked: &[SlurmJob], statuses: Vec<Result<JobStatus, ExecutorError>>) {
        let mut jobs = self.lock();
        let at = Instant::now();
        for (job, status) in asked.iter().zip(statuses) {
            if let Some(watched) = jobs.get_mut(job) {
                watched.answer = Some(Answer { at, status });
            }
        }
    }

    /// The jobs are valid after a panic of another thread: every change is one insertion or removal.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<SlurmJob, Watched>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
