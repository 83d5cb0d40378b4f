//! Cancels jobs. An annotation of a running pod reaches its start script within a second or two: kubelet updates the file of the
//! downward API when the pod changes. So the ranks save, the pod ends by itself, and its output is still there. A job that does
//! not run, and a second request, suspend the Job instead, which deletes its pods.

use futures_util::future::join_all;
use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};
use kube::api::{DeleteParams, Patch, PatchParams};
use neva_schemas::StopSignal;
use serde_json::json;

use super::{
    cluster::Cluster,
    handle::KubernetesJob,
    names::{MANAGER, QUEUE, STOP, annotation},
    pod::{PodPhase, newest, pod_states},
    query,
    state::{has_ended, pods_wanted},
};
use crate::{background::stop_signal, error::ExecutorError, kubernetes_error::KubernetesError};

/// Requests the end of a job.
pub(super) async fn cancel(cluster: &Cluster, handle: &KubernetesJob, signal: StopSignal) -> Result<(), ExecutorError> {
    let Some(job) = query::job(cluster, handle).await?.filter(|job| !has_ended(job)) else {
        return Ok(());
    };
    let is_second = annotation(&job, STOP).is_some();
    let signal = stop_signal(signal).name().trim_start_matches("SIG").to_owned();
    let stop = json!({ "metadata": { "annotations": { STOP: signal } } });
    patch(cluster, handle, &stop).await?;

    let pods = query::pods(cluster, &handle.uid).await?;
    let states = pod_states(&pods);
    let newest = newest(&states);
    let runs = newest.len() == pods_wanted(&job) && newest.iter().all(|pod| pod.phase != PodPhase::Waiting);
    let active: Vec<_> = newest
        .iter()
        .filter(|pod| pod.end().is_none())
        .map(|pod| pod.name.as_str())
        .collect();
    let api = cluster.api::<Pod>();
    if runs && !is_second {
        let params = PatchParams::apply(MANAGER);
        let merge = Patch::Merge(&stop);
        let requests = active.iter().map(|name| cluster.ask(api.patch(name, &params, &merge)));
        return finish(join_all(requests).await.into_iter().map(|answer| answer.map(drop)));
    }
    let mut suspend = json!({ "spec": { "suspend": true } });
    if job.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(QUEUE)) {
        // A job that its queue starts nevertheless ends at once.
        suspend["spec"]["activeDeadlineSeconds"] = json!(1);
    }
    patch(cluster, handle, &suspend).await?;
    if is_second {
        let now = DeleteParams::default().grace_period(0);
        let requests = active.iter().map(|name| cluster.ask(api.delete(name, &now)));
        return finish(join_all(requests).await.into_iter().map(|answer| answer.map(drop)));
    }
    Ok(())
}

async fn patch(cluster: &Cluster, handle: &KubernetesJob, change: &serde_json::Value) -> Result<(), ExecutorError> {
    let patch = Patch::Merge(change);
    let request = cluster.api::<Job>();
    let answer = cluster.ask(request.patch(&handle.name, &PatchParams::apply(MANAGER), &patch)).await;
    finish([answer.map(drop)])
}

/// Returns the first error. A pod or a job that is gone needs no request.
fn finish(answers: impl IntoIterator<Item = Result<(), ExecutorError>>) -> Result<(), ExecutorError> {
    let is_gone = |error: &ExecutorError| match error {
        ExecutorError::Kubernetes(KubernetesError::Refused { words, .. }) => words.contains("not found"),
        _ => false,
    };
    let errors = answers.into_iter().filter_map(Result::err);
    errors.into_iter().find(|error| !is_gone(error)).map_or(Ok(()), Err)
}
