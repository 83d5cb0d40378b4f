//! Queries of jobs and pods.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{Event, Pod},
};
use kube::api::ListParams;

use super::{
    cluster::Cluster,
    handle::KubernetesJob,
    logs,
    names::{MANAGED_BY, MANAGER},
    pod::{PodPhase, PodState, pod_states},
    record::JobRecord,
    state::{self, Tails, ranks_per_pod},
    waiting,
};
use crate::{
    error::ExecutorError,
    event::{JobResults, JobStatus},
    failure::TAIL_LINES,
    job::JobState,
};

/// Label of pods: the uid of their Job.
pub(super) const CONTROLLER_UID: &str = "batch.kubernetes.io/controller-uid";
/// Maximum number of waiting pods whose events are read.
const WAITING_PODS: usize = 3;

/// Reads the Job, if the cluster has it.
pub(super) async fn job(cluster: &Cluster, job: &KubernetesJob) -> Result<Option<Job>, ExecutorError> {
    let found = cluster.ask(cluster.api::<Job>().get_opt(&job.name)).await?;
    Ok(found.filter(|found| found.metadata.uid.as_deref() == Some(&job.uid)))
}

/// Reads the pods of the Job.
pub(super) async fn pods(cluster: &Cluster, uid: &str) -> Result<Vec<Pod>, ExecutorError> {
    let params = ListParams::default().labels(&format!("{CONTROLLER_UID}={uid}"));
    Ok(cluster.ask(cluster.api::<Pod>().list(&params)).await?.items)
}

/// Returns the status of one job, with the reason why it waits or failed.
pub(super) async fn status(cluster: &Cluster, handle: &KubernetesJob) -> Result<JobStatus, ExecutorError> {
    let Some(job) = job(cluster, handle).await? else {
        return Ok(state::gone());
    };
    let pods = pods(cluster, &handle.uid).await?;
    whole_status(cluster, &job, &pods).await
}

/// Returns the status from what was read, with the events of a job that waits and the log of a rank that failed silently.
pub(super) async fn whole_status(cluster: &Cluster, job: &Job, pods: &[Pod]) -> Result<JobStatus, ExecutorError> {
    let states = pod_states(pods);
    let status = state::status(job, &states, None, &Tails::new());
    match &status.state {
        JobState::Pending => {
            let events = events(cluster, job, pods, &states).await?;
            Ok(state::status(job, &states, waiting::reason(job, pods, &events), &Tails::new()))
        }
        JobState::Failed(failure) if failure.log.is_some() => {
            let rank = failure.rank.unwrap_or(0);
            let tail = tail(cluster, job, &states, rank).await?;
            Ok(state::status(job, &states, None, &[(rank, tail)].into()))
        }
        _ => Ok(status),
    }
}

/// Reads the events of a Job and of its pods that wait. A user who may not read events waits without a reason.
async fn events(cluster: &Cluster, job: &Job, pods: &[Pod], states: &[PodState]) -> Result<Vec<Event>, ExecutorError> {
    let is_waiting = |pod: &&Pod| {
        let name = pod.metadata.name.as_deref();
        states
            .iter()
            .any(|state| Some(state.name.as_str()) == name && state.phase == PodPhase::Waiting)
    };
    let waiting = pods
        .iter()
        .filter(is_waiting)
        .take(WAITING_PODS)
        .filter_map(|pod| pod.metadata.uid.as_deref());
    let uids = job.metadata.uid.as_deref().into_iter().chain(waiting);
    let api = cluster.api::<Event>();
    let requests = uids.map(|uid| {
        let api = api.clone();
        async move {
            let params = ListParams::default().fields(&format!("involvedObject.uid={uid}"));
            cluster.ask(api.list(&params)).await
        }
    });
    let mut events = Vec::new();
    for answer in join_all(requests).await {
        match answer {
            Ok(list) => events.extend(list.items),
            Err(error) if error.is_connection_lost() => return Err(error),
            Err(error) => tracing::debug!("events: {error}"),
        }
    }
    Ok(events)
}

/// Returns the last lines of a rank.
async fn tail(cluster: &Cluster, job: &Job, states: &[PodState], rank: u32) -> Result<Vec<String>, ExecutorError> {
    let index = rank / ranks_per_pod(job);
    let Some(pod) = states.iter().rfind(|pod| pod.index == index && pod.end().is_some()) else {
        return Ok(Vec::new());
    };
    let lines = logs::last_lines(cluster, &pod.name, rank).await?;
    Ok(lines[lines.len().saturating_sub(TAIL_LINES)..].to_vec())
}

/// Returns the status of each job, from one list of Jobs and one of pods.
pub(super) async fn statuses(cluster: &Cluster, jobs: &[KubernetesJob]) -> Vec<Result<JobStatus, ExecutorError>> {
    let params = ListParams::default().labels(&format!("{MANAGED_BY}={MANAGER}"));
    let (job_api, pod_api) = (cluster.api::<Job>(), cluster.api::<Pod>());
    let lists = (cluster.ask(job_api.list(&params)), cluster.ask(pod_api.list(&params)));
    let (found, pods) = match futures_util::future::try_join(lists.0, lists.1).await {
        Ok((found, pods)) => (found.items, pods.items),
        Err(error) => return jobs.iter().map(|_| Err(error.repeated())).collect(),
    };
    statuses_of(jobs, &found, &pods).into_iter().map(Ok).collect()
}

/// Returns the status of each job from lists of all Jobs and pods.
pub(super) fn statuses_of(jobs: &[KubernetesJob], found: &[Job], pods: &[Pod]) -> Vec<JobStatus> {
    let by_uid: BTreeMap<_, _> = found.iter().filter_map(|job| Some((job.metadata.uid.as_deref()?, job))).collect();
    let mut of_job = BTreeMap::<&str, Vec<&Pod>>::new();
    for pod in pods {
        if let Some(uid) = pod.metadata.labels.as_ref().and_then(|labels| labels.get(CONTROLLER_UID)) {
            of_job.entry(uid).or_default().push(pod);
        }
    }
    let status = |job: &KubernetesJob| {
        let Some(found) = by_uid.get(job.uid.as_str()) else {
            return state::gone();
        };
        let pods: Vec<Pod> = of_job
            .get(job.uid.as_str())
            .into_iter()
            .flatten()
            .map(|pod| (*pod).clone())
            .collect();
        let reason = waiting::reason(found, &pods, &[]);
        state::status(found, &pod_states(&pods), reason, &Tails::new())
    };
    jobs.iter().map(status).collect()
}

/// Reads the results of the latest attempt: the report from the output of the first pod, the checkpoint from its message. Where
/// the pod is gone, the Job has a record of them if a launcher saw its end.
pub(super) async fn results(cluster: &Cluster, handle: &KubernetesJob) -> Result<JobResults, ExecutorError> {
    let states = pod_states(&pods(cluster, &handle.uid).await?);
    let first = states.iter().rfind(|pod| pod.index == 0);
    let Some((first, end)) = first.and_then(|pod| Some((pod, pod.end()?.message.as_ref()?))) else {
        let job = job(cluster, handle).await?;
        let record = job.as_ref().and_then(JobRecord::of);
        return Ok(record.map(|record| record.results).unwrap_or_default());
    };
    Ok(JobResults {
        report: logs::report(cluster, &first.name).await?,
        checkpoint: end.checkpoint.clone(),
    })
}
