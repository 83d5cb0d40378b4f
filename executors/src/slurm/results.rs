//! Results of a job, read through the tunnel.

use std::io;

use neva_schemas::REPORT_FILE;

use super::{SlurmExecutor, files::Part, handle::SlurmJob};
use crate::{
    error::ExecutorError,
    event::JobResults,
    results::{CHECKPOINTS, steps_done},
};

/// Maximum number of bytes of a report, and of the file of a checkpoint.
const REPORT_BYTES: u64 = 64 << 20;
const CHECKPOINT_BYTES: u64 = 1 << 20;

/// Reads the report of rank 0 and finds the checkpoint with the most steps.
pub(super) async fn results(executor: &SlurmExecutor, job: &SlurmJob) -> Result<JobResults, ExecutorError> {
    let report_path = job.file(REPORT_FILE);
    let checkpoints = job.file(CHECKPOINTS);
    let parts = vec![
        (Part::From(0, REPORT_BYTES), report_path.clone()),
        (Part::EachCheckpoint(CHECKPOINT_BYTES), checkpoints.clone()),
    ];
    let mut results = JobResults::default();
    let mut newest = None;
    for part in executor.reads.read(&*executor.tunnel, parts).await? {
        if part.request == 0 {
            let report = serde_json::from_slice(&part.bytes).map_err(|error| ExecutorError::File {
                action: "read",
                path: report_path.clone(),
                source: io::Error::from(error),
            })?;
            results.report = Some(report);
        } else if !is_hidden(&part.name) {
            newest = newest.max(steps_done(&part.bytes).map(|steps| (steps, checkpoints.join(&part.name))));
        }
    }
    results.checkpoint = newest.map(|(_, path)| path);
    Ok(results)
}

/// Returns whether a folder is hidden, as that of an unfinished checkpoint is.
fn is_hidden(folder: &str) -> bool {
    folder.starts_with('.')
}
