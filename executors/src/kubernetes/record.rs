//! What a watch read of an ended job, kept in an annotation of the Job: its pods may be gone when another launcher asks.

use k8s_openapi::api::batch::v1::Job;
use kube::api::{Patch, PatchParams};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    cluster::Cluster,
    handle::KubernetesJob,
    names::{END, MANAGER, annotation},
};
use crate::{event::JobResults, job::JobState};

/// Maximum number of bytes of the record: all annotations of an object share 256 KiB.
const MAX_BYTES: usize = 128 << 10;

/// Final state and results of a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct JobRecord {
    pub(super) state: JobState,
    pub(super) results: JobResults,
}

impl JobRecord {
    /// Returns a record without lines of logs, which may hold anything that a rank prints, and with the first and the last loss only.
    pub(super) fn new(state: &JobState, results: &JobResults) -> Self {
        let mut state = state.clone();
        if let JobState::Failed(failure) = &mut state {
            failure.tail.clear();
        }
        let mut results = results.clone();
        if let Some(report) = &mut results.report {
            let last = report.losses.iter().skip(1).next_back().copied();
            report.losses.truncate(1);
            report.losses.extend(last);
        }
        Self { state, results }
    }

    /// Returns the record in a Job.
    pub(super) fn of(job: &Job) -> Option<Self> {
        serde_json::from_str(annotation(job, END)?).ok()
    }

    /// Writes the record into the Job. Without it the results are those in the pods, so a failure is no error.
    pub(super) async fn write(&self, cluster: &Cluster, handle: &KubernetesJob) {
        let Ok(text) = serde_json::to_string(self) else { return };
        if text.len() > MAX_BYTES {
            tracing::debug!(job = handle.name, bytes = text.len(), "the record is too long for an annotation");
            return;
        }
        let patch = Patch::Merge(json!({ "metadata": { "uid": handle.uid, "annotations": { END: text } } }));
        let api = cluster.api::<Job>();
        if let Err(error) = cluster.ask(api.patch(&handle.name, &PatchParams::apply(MANAGER), &patch)).await {
            tracing::debug!(job = handle.name, "record: {}", error.reason());
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::from_value;

    use super::*;
    use crate::{
        failure::JobFailure,
        kubernetes::state::{self, Tails},
    };

    /// The pods of a failed job are gone.
    #[test]
    fn a_record_tells_what_gone_pods_do_not() {
        let failure = JobFailure {
            rank: Some(3),
            tail: vec!["a line of its log".to_owned()],
            ..JobFailure::for_job(1, "no such tensor".to_owned())
        };
        let results = JobResults {
            report: None,
            checkpoint: Some("/runs/a/checkpoints/b".into()),
        };
        let record = JobRecord::new(&JobState::Failed(failure), &results);
        let text = serde_json::to_string(&record).unwrap();
        assert!(!text.contains("a line of its log"), "{text}");
        let job = |annotations| -> Job {
            let conditions = [json!({ "type": "Failed", "status": "True", "reason": "BackoffLimitExceeded" })];
            from_value(json!({
                "metadata": { "name": "run", "annotations": annotations },
                "spec": { "template": {} },
                "status": { "conditions": conditions },
            }))
            .unwrap()
        };
        let recorded = job(json!({ END: text }));
        assert_eq!(JobRecord::of(&recorded), Some(record.clone()));
        assert_eq!(state::status(&recorded, &[], None, &Tails::new()).state, record.state);
        let without = state::status(&job(json!({})), &[], None, &Tails::new()).state;
        assert!(
            matches!(&without, JobState::Failed(failure) if failure.to_string().contains("BackoffLimitExceeded")),
            "{without:?}"
        );
    }
}
