//! The content of a checkpoint, and its name.

use super::last_suffix::LAST;
use super::state::{BaseReference, RunProgress};
use crate::fp8::ScalingStates;
use crate::optim::Optimizer;
use crate::parameters::Parameters;
use neva_schemas::Run;

/// Additional files of a checkpoint, by name.
pub type Artifacts = Vec<(String, Vec<u8>)>;

/// The content of a checkpoint.
#[derive(Debug, Clone, Copy)]
pub struct Snapshot<'a> {
    /// The resolved run.
    pub run: &'a Run,
    /// Its progress.
    pub progress: &'a RunProgress,
    /// Its base weights.
    pub base: &'a BaseReference,
    /// The parameters of this rank.
    pub parameters: &'a Parameters,
    /// The optimizer of this rank.
    pub optimizer: &'a Optimizer,
    /// The scaling state of its FP8 linears, if it has any.
    pub fp8: Option<&'a ScalingStates>,
    /// Additional files.
    pub artifacts: &'a Artifacts,
}

/// Returns NeMo's name of the checkpoint, with the monitored metric as in Lightning.
pub(super) fn name(snapshot: &Snapshot<'_>) -> String {
    let (log, progress) = (&snapshot.run.finetune.log, snapshot.progress);
    let monitor = &log.ckpt.monitor;
    let metric = progress
        .metrics
        .get(monitor)
        .map(|value| format!("{monitor}={value:.2}-"))
        .unwrap_or_default();
    format!(
        "{}--{metric}step={}-consumed_samples={}{}",
        log.name,
        progress.steps_done.saturating_sub(1),
        progress.consumed_samples,
        if log.ckpt.save_last { LAST } else { "" },
    )
}
