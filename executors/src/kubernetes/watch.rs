//! Watches a job: its status from the shared watch, the output of its ranks from their pods.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep},
};

use super::{
    KubernetesExecutor,
    event_stream::event_stream,
    follow::{Follower, RankOutput},
    handle::KubernetesJob,
    pod::pod_states,
    query,
    record::JobRecord,
    refusal,
    reporter::{Closed, Events, Reporter},
    shared::Shared,
    state::{self, Tails, has_ended, ranks_per_pod},
    store::{Trouble, View},
};
use crate::{
    error::ExecutorError,
    event::{JobEnd, JobEvent, JobResults, JobStatus, WatchFrom},
    executor::JobEvents,
    job::{JobHandle, JobState},
};

/// Chunks of output that wait for it.
const CHUNKS: usize = 256;
/// Interval at which the reason of a job that waits is read.
const REASON: Duration = Duration::from_secs(2);
/// Pause after a lost connection at the end of a job.
const PAUSE: Duration = Duration::from_millis(500);

/// Returns the events of a job.
pub(super) fn watch(executor: &KubernetesExecutor, job: &JobHandle, from: WatchFrom) -> JobEvents<'static> {
    let (executor, job) = (executor.clone(), job.clone());
    event_stream(move |events| run(executor, job, from, events))
}

async fn run(executor: KubernetesExecutor, job: JobHandle, from: WatchFrom, events: Events) {
    let Some(parsed) = KubernetesJob::parse(&job) else {
        let _ = events.send(Err(ExecutorError::UnknownJob { job })).await;
        return;
    };
    let watch = Watch {
        shared: executor.shared(&parsed.namespace),
        executor,
        job: parsed,
        from,
        reporter: Reporter::new(events),
        status: None,
        next_reason: None,
    };
    // A reader that is gone needs no result.
    let _ = watch.run().await;
}

struct Watch {
    executor: KubernetesExecutor,
    shared: Arc<Shared>,
    job: KubernetesJob,
    from: WatchFrom,
    reporter: Reporter,
    /// The last status that was reported.
    status: Option<JobStatus>,
    /// When the reason of a job that waits is read again.
    next_reason: Option<Instant>,
}

impl Watch {
    async fn run(mut self) -> Result<(), Closed> {
        let (sender, mut output) = mpsc::channel(CHUNKS);
        let (over, is_over) = watch::channel(false);
        let mut followers = JoinSet::new();
        let mut sender = Some(sender);
        let mut changes = self.shared.changes();
        loop {
            if self.look(&mut followers, &mut sender, &is_over).await? {
                break;
            }
            tokio::select! {
                _ = changes.changed() => {}
                Some(chunk) = output.recv() => self.reporter.output(chunk).await?,
                () = sleep(REASON) => {}
            }
        }
        // Without this sender the channel ends with the followers.
        drop(sender);
        let _ = over.send(true);
        while let Some(chunk) = output.recv().await {
            self.reporter.output(chunk).await?;
        }
        let status = self.last_status().await?;
        let results = self.results().await?;
        if let Ok(results) = &results
            && let Ok(cluster) = self.executor.cluster_of(&self.job).await
        {
            JobRecord::new(&status.state, results).write(&cluster, &self.job).await;
        }
        self.reporter.send(JobEvent::Status(status.clone())).await?;
        self.reporter
            .send(JobEvent::Ended(Box::new(JobEnd {
                state: status.state,
                results,
            })))
            .await
    }

    /// Reports what has changed. Returns true if the job has ended.
    async fn look(
        &mut self,
        followers: &mut JoinSet<()>,
        sender: &mut Option<mpsc::Sender<RankOutput>>,
        is_over: &watch::Receiver<bool>,
    ) -> Result<bool, Closed> {
        let (job, pods) = match self.shared.view(&self.job.uid) {
            View::Unknown => return Ok(false),
            View::Lost(trouble) => {
                self.reporter.lost(trouble).await?;
                return Ok(false);
            }
            // The list may be older than the job.
            View::Gone => {
                let found = match self.executor.cluster_of(&self.job).await {
                    Ok(cluster) => query::job(&cluster, &self.job).await,
                    Err(error) => Err(error),
                };
                return Ok(matches!(found, Ok(None)));
            }
            View::Known(job, pods) => (job, pods),
        };
        self.reporter.restored().await?;
        if let Some(sender) = sender.take() {
            self.follow(ranks_per_pod(&job), followers, &sender, is_over);
        }
        if has_ended(&job) {
            return Ok(true);
        }
        let mut status = state::status(&job, &pod_states(&pods), None, &Tails::new());
        if status.state == JobState::Pending {
            if self.next_reason.is_none_or(|next| next <= Instant::now()) {
                self.next_reason = Instant::now().checked_add(REASON);
                if let Ok(cluster) = self.executor.cluster_of(&self.job).await
                    && let Ok(whole) = query::whole_status(&cluster, &job, &pods).await
                {
                    status = whole;
                }
            } else if let Some(last) = self.status.as_ref().filter(|last| last.state == JobState::Pending) {
                // The reason is not read with every change of a pod.
                status.reason.clone_from(&last.reason);
            }
        } else {
            self.next_reason = None;
        }
        if self.status.as_ref() != Some(&status) {
            self.status = Some(status.clone());
            self.reporter.send(JobEvent::Status(status)).await?;
        }
        Ok(false)
    }

    /// Starts to follow the pods of the ranks whose output is wanted.
    fn follow(&self, ranks_per_pod: u32, followers: &mut JoinSet<()>, output: &mpsc::Sender<RankOutput>, over: &watch::Receiver<bool>) {
        let mut by_index = BTreeMap::<u32, BTreeMap<u32, u64>>::new();
        for (rank, offset) in &self.from.0 {
            by_index.entry(rank / ranks_per_pod).or_default().insert(*rank, *offset);
        }
        for (index, from) in by_index {
            let follower = Follower {
                executor: self.executor.clone(),
                shared: self.shared.clone(),
                job: self.job.clone(),
                index,
                from,
                output: output.clone(),
                over: over.clone(),
            };
            followers.spawn(follower.run());
        }
    }

    /// Reads the status of the ended job; what the shared watch knows of its pods may be older than their end.
    async fn last_status(&mut self) -> Result<JobStatus, Closed> {
        loop {
            let status = match self.executor.cluster_of(&self.job).await {
                Ok(cluster) => query::status(&cluster, &self.job).await,
                Err(error) => Err(error),
            };
            match status {
                Ok(status) => return Ok(status),
                Err(error) if refusal::is_lost(&error) => self.wait_after(&error).await?,
                Err(error) => return Err(self.reporter.fail(error).await),
            }
        }
    }

    async fn results(&mut self) -> Result<Result<JobResults, ExecutorError>, Closed> {
        loop {
            let results = match self.executor.cluster_of(&self.job).await {
                Ok(cluster) => query::results(&cluster, &self.job).await,
                Err(error) => Err(error),
            };
            match results {
                Err(error) if refusal::is_lost(&error) => self.wait_after(&error).await?,
                results => {
                    self.reporter.restored().await?;
                    return Ok(results);
                }
            }
        }
    }

    async fn wait_after(&mut self, error: &ExecutorError) -> Result<(), Closed> {
        self.reporter.lost(Trouble::new(error)).await?;
        self.executor.forget().await;
        sleep(PAUSE).await;
        Ok(())
    }
}
