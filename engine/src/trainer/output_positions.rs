//! Positions whose last hidden states a run computes.

use crate::batch::Batch;
use crate::effects::Effects;
use crate::nn::OutputPositions;

/// Chooses the positions whose last hidden states the loss reads. The last layer computes its queries and its MLP there only.
#[derive(Debug)]
pub(super) struct LastHiddenStates {
    /// Why the last layer computes all positions.
    all: Option<&'static str>,
    effects: Effects,
}

impl LastHiddenStates {
    /// Creates the choice of a run. This is the only rule for it:
    ///
    /// - With sequence parallelism a rank holds a shard of each sequence, and labels are not spread evenly over the shards.
    /// - With FP8 the scales follow from all positions, as in Transformer Engine, and the hardware multiplies rows by sixteens.
    pub(super) fn new(sequence_parallel: bool, fp8: bool, effects: &Effects) -> Self {
        let all = match (sequence_parallel, fp8) {
            (true, _) => Some("sequence parallelism"),
            (_, true) => Some("FP8"),
            _ => None,
        };
        Self {
            all,
            effects: effects.clone(),
        }
    }

    /// Returns why all positions are computed, if they are.
    pub(super) fn all(&self) -> Option<&'static str> {
        self.all
    }

    /// Returns the positions of a batch for the chunk with the head, and counts them. Every other chunk computes all positions.
    pub(super) fn of(&self, has_head: bool, batch: &Batch) -> OutputPositions {
        if !has_head {
            return OutputPositions::All;
        }
        let outputs = match self.all {
            Some(_) => OutputPositions::All,
            None => match OutputPositions::labelled(&batch.labels_bs) {
                // With context parallelism a rank may have no label, and others wait for its keys.
                none if none.count() == Some(0) => OutputPositions::All,
                labelled => labelled,
            },
        };
        let all = batch.labels_bs.numel();
        self.effects
            .add_outputs([outputs.count().unwrap_or(all), all].map(|count| count as u64));
        outputs
    }
}
