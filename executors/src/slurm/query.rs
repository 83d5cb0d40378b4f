//! Status of many jobs: one query to the controller, one to the accounting database for those that it has forgotten, and one
//! read of the folders of those that have ended.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use super::{
    evidence::Evidence,
    files::{Part, read},
    handle::SlurmJob,
    queue::{QueueRow, accounting, queue},
    state::{self, Phase, phase},
};
use crate::{error::ExecutorError, event::JobStatus, job::JobHandle, tunnel::Tunnel};

/// Maximum number of jobs in one query, as command lines are limited.
const MAX_JOBS: usize = 5_000;

/// Returns the status of each job, in order.
pub(super) async fn statuses(tunnel: &dyn Tunnel, jobs: &[SlurmJob]) -> Vec<Result<JobStatus, ExecutorError>> {
    let mut found = Vec::with_capacity(jobs.len());
    for jobs in jobs.chunks(MAX_JOBS) {
        match some_statuses(tunnel, jobs).await {
            Ok(statuses) => found.extend(statuses),
            Err(error) => {
                let mut error = Some(error);
                for _ in jobs {
                    let next = error.as_ref().map(ExecutorError::repeated);
                    found.extend(std::mem::replace(&mut error, next).map(Err));
                }
            }
        }
    }
    found
}

async fn some_statuses(tunnel: &dyn Tunnel, jobs: &[SlurmJob]) -> Result<Vec<Result<JobStatus, ExecutorError>>, ExecutorError> {
    let mut ids: Vec<&str> = jobs.iter().map(SlurmJob::slurm_id).collect();
    ids.dedup();
    complete(tunnel, jobs, queue(tunnel, &ids).await?).await
}

/// Adds to rows of squeue what the accounting database and the jobs' folders tell.
async fn complete(
    tunnel: &dyn Tunnel,
    jobs: &[SlurmJob],
    queued: Vec<QueueRow>,
) -> Result<Vec<Result<JobStatus, ExecutorError>>, ExecutorError> {
    let queued = Rows::new(queued);
    let mut rows: Vec<Option<QueueRow>> = jobs.iter().map(|job| queued.of(job)).collect();

    let forgotten: Vec<&str> = (rows.iter().zip(jobs))
        .filter(|(row, _)| row.is_none())
        .map(|(_, job)| job.slurm_id())
        .collect();
    let mut database = Ok(None);
    if !forgotten.is_empty() {
        database = accounting(tunnel, &forgotten).await;
        if let Ok(Some(recorded)) = &mut database {
            let recorded = Rows::new(std::mem::take(recorded));
            for (row, job) in rows.iter_mut().zip(jobs).filter(|(row, _)| row.is_none()) {
                // A database that lags behind is not believed.
                *row = recorded.of(job).filter(|row| phase(&row.state) == Phase::Ended);
            }
        }
    }
    let has_ended = |row: &Option<QueueRow>| row.as_ref().is_none_or(|row| phase(&row.state) == Phase::Ended);
    // A task of a group may end before its job.
    let has_evidence = |index: &usize| has_ended(&rows[*index]) || jobs[*index].is_in_group();
    let ended: Vec<usize> = (0..jobs.len()).filter(has_evidence).collect();
    let mut evidence = read_evidence(tunnel, jobs, &ended).await?;
    // Jobs of which only the database could tell how they ended. The states of the others do not depend on it.
    let mut unanswered = BTreeSet::new();
    for index in &ended {
        if rows[*index].is_none() {
            let evidence = evidence.get(index).filter(|evidence| evidence.is_own);
            if database.is_err() && evidence.is_some_and(|evidence| evidence.status.is_none() && !evidence.is_cancelled) {
                unanswered.insert(*index);
                continue;
            }
            rows[*index] = evidence.map(|evidence| state::forgotten(&jobs[*index], evidence));
        }
    }
    read_tails(tunnel, jobs, &rows, &mut evidence).await?;

    let nothing = Evidence::default();
    let status = |(index, (job, row)): (usize, (&SlurmJob, Option<QueueRow>))| match row {
        Some(row) => Ok(state::status(job, &row, evidence.get(&index).unwrap_or(&nothing))),
        None => match &database {
            Err(error) if unanswered.contains(&index) => Err(error.repeated()),
            _ => Err(ExecutorError::UnknownJob { job: job.handle() }),
        },
    };
    Ok(jobs.iter().zip(rows).enumerate().map(status).collect())
}

/// Reads the folders of the jobs with these indices.
async fn read_evidence(tunnel: &dyn Tunnel, jobs: &[SlurmJob], ended: &[usize]) -> Result<BTreeMap<usize, Evidence>, ExecutorError> {
    let requests: Vec<(Part, PathBuf)> = ended.iter().flat_map(|index| Evidence::requests(&jobs[*index])).collect();
    let mut texts = vec![Vec::new(); requests.len()];
    for part in read(tunnel, &requests).await? {
        if let Some(text) = texts.get_mut(part.request) {
            *text = part.bytes;
        }
    }
    let mut evidence = BTreeMap::new();
    for (index, texts) in ended.iter().zip(texts.chunks(5)) {
        if let [own, status, cancel, log, records] = texts {
            evidence.insert(*index, Evidence::new(&jobs[*index], [own, status, cancel, log, records]));
        }
    }
    Ok(evidence)
}

/// Reads the ends of logs that tell why ranks failed.
async fn read_tails(
    tunnel: &dyn Tunnel,
    jobs: &[SlurmJob],
    rows: &[Option<QueueRow>],
    evidence: &mut BTreeMap<usize, Evidence>,
) -> Result<(), ExecutorError> {
    let mut wanted = Vec::new();
    for (index, evidence) in &*evidence {
        let rank = rows[*index].as_ref().and_then(|row| state::silent_rank(row, evidence));
        wanted.extend(rank.map(|rank| (*index, rank)));
    }
    let requests: Vec<_> = wanted
        .iter()
        .map(|(index, rank)| Evidence::tail_request(&jobs[*index], *rank))
        .collect();
    for part in read(tunnel, &requests).await? {
        if let Some(evidence) = wanted.get(part.request).and_then(|(index, _)| evidence.get_mut(index)) {
            evidence.set_tail(&part.bytes);
        }
    }
    Ok(())
}

/// Rows of squeue or sacct by the number of the job.
struct Rows(BTreeMap<String, Vec<QueueRow>>);

impl Rows {
    fn new(rows: Vec<QueueRow>) -> Self {
        let mut by_id: BTreeMap<String, Vec<QueueRow>> = BTreeMap::new();
        for row in rows {
            // Components of heterogeneous jobs are one job, and so are all tasks of an array if it was asked for.
            let job = row.id.split(['+', '_']).next().unwrap_or_default().to_owned();
            if job != row.id {
                by_id.entry(row.id.clone()).or_default().push(row.clone());
            }
            by_id.entry(job).or_default().push(row);
        }
        Self(by_id)
    }

    /// Returns the row that tells the state of a job: one that has not ended, else one that failed.
    fn of(&self, job: &SlurmJob) -> Option<QueueRow> {
        let rows = self.0.get(job.slurm_id())?;
        let order = |row: &&QueueRow| match (phase(&row.state), row.state.as_str()) {
            (Phase::Running, _) => 0,
            (Phase::Pending, _) => 1,
            (Phase::Ended, "COMPLETED") => 3,
            (Phase::Ended, _) => 2,
        };
        rows.iter().min_by_key(order).cloned()
    }
}

/// Returns the jobs of handles, or the error of one that is not a job of Slurm.
pub(super) fn parse(handle: &JobHandle, place: &str) -> Result<SlurmJob, ExecutorError> {
    SlurmJob::parse(handle)
        .filter(|job| job.place == place)
        .ok_or_else(|| ExecutorError::UnknownJob { job: handle.clone() })
}
