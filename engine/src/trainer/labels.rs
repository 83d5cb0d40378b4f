//! Steps, validations and whole runs without a labelled token, for which there is no loss.

use super::batches::merge_options;
use crate::error::{EngineError, Result};
use neva_data::{Dataset, Unlabelled};
use neva_schemas::{Finetune, Problem};

/// Most samples named in a warning.
const NAMED: usize = 8;

/// Warns once about a training step, and once about a validation, without a labelled token.
#[derive(Debug)]
pub(super) struct LabelWarnings {
    step: bool,
    validation: bool,
}

impl LabelWarnings {
    /// Creates the warnings. Only the first rank warns.
    pub(super) fn new(is_first: bool) -> Self {
        Self {
            step: is_first,
            validation: is_first,
        }
    }

    /// Warns about a step whose global batch has these dataset indices, unless an earlier one was reported.
    pub(super) fn step(&mut self, step: u64, dataset: &dyn Dataset, global_batch: impl FnOnce() -> Result<Vec<u64>>) -> Result<()> {
        if std::mem::take(&mut self.step) {
            let indices = global_batch()?;
            tracing::warn!(
                "step {}: none of the {} samples has a labelled token, so the step has no loss and changes nothing (this is reported once; \
                 label_tokens in metrics.jsonl counts labels by step): {}",
                step + 1,
                indices.len(),
                names(dataset, &indices)
            );
        }
        Ok(())
    }

    /// Warns about a validation on the first `samples` of a dataset, unless an earlier one was reported.
    pub(super) fn validation(&mut self, dataset: &dyn Dataset, samples: u64) {
        if std::mem::take(&mut self.validation) {
            tracing::warn!(
                "none of the {samples} validation samples has a labelled token, so there is no val_loss: no checkpoint is chosen by it and \
                 no early stopping looks at it (this is reported once): {}",
                names(dataset, &(0..samples).collect::<Vec<_>>())
            );
        }
    }
}

/// Lists the names of the first samples, and the number of others.
fn names(dataset: &dyn Dataset, indices: &[u64]) -> String {
    let names = indices.iter().take(NAMED).map(|index| dataset.name(*index as usize));
    let text = names.collect::<Vec<_>>().join(", ");
    match indices.len().saturating_sub(NAMED) {
        0 => text,
        more => format!("{text} and {more} more"),
    }
}

/// Refuses data without any labelled token.
///
/// # Errors
/// No sample has a labelled token: the run could learn nothing.
pub(super) fn require_labels(dataset: &dyn Dataset, finetune: &Finetune) -> Result<()> {
    let Some(Unlabelled { samples, nearest }) = Unlabelled::find(dataset, &merge_options(finetune)) else {
        return Ok(());
    };
    let length = finetune.data.seq_length();
    let problem = match nearest {
        Some((name, needed)) => Problem::error(
            "finetune.data.seq_length",
            format!("none of the {samples} samples has a labelled token within its first {length} positions: there is nothing to learn"),
        )
        .help(format!("set it to {needed} or more: the first label of {name} is the nearest")),
        None => Problem::error(
            "finetune.data",
            format!("none of the {samples} samples has a labelled token: there is nothing to learn"),
        )
        .help("give the samples answers: every label is negative, which means not trained"),
    };
    Err(EngineError::Run(vec![problem]))
}
