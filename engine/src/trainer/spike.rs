//! Loss spikes, and the samples of their steps.

use crate::error::{EngineError, Result};
use serde::Serialize;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

/// Number of recent losses that a step is compared with.
const WINDOW: usize = 64;
/// Fewest recent losses for a comparison.
const FEWEST: usize = 16;
/// Least standard deviation as a fraction of the mean, so that a nearly constant loss causes no false alarm.
const LEAST_DEVIATION: f64 = 0.01;

/// A loss spike; a line of `spikes.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Spike {
    /// Optimizer step, from 0.
    pub(super) step: u64,
    /// Its loss.
    pub(super) loss: f64,
    /// Mean of the recent losses.
    pub(super) mean: f64,
    /// Their standard deviation.
    pub(super) deviation: f64,
    /// Names of the global batch's samples.
    pub(super) samples: Vec<String>,
}

/// Adds the loss of a step to the recent ones. Returns their mean and deviation if the loss exceeds the mean by `threshold`
/// standard deviations, or is not finite.
pub(super) fn observe(recent: &mut Vec<f64>, loss: f64, threshold: f64) -> Option<(f64, f64)> {
    let count = recent.len() as f64;
    let mean = recent.iter().sum::<f64>() / count.max(1.0);
    let variance = recent.iter().map(|loss| (loss - mean).powi(2)).sum::<f64>() / count.max(1.0);
    let deviation = variance.sqrt().max(LEAST_DEVIATION * mean.abs());
    let enough = recent.len() >= FEWEST;
    if loss.is_finite() {
        if recent.len() == WINDOW {
            recent.remove(0);
        }
        recent.push(loss);
    }
    let spike = !loss.is_finite() || (enough && loss > mean + threshold * deviation);
    spike.then_some((mean, deviation))
}

impl Spike {
    /// Logs a warning, and appends a line to `path`.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(super) fn report(&self, path: &Path) -> Result<()> {
        let Self {
            step,
            loss,
            mean,
            deviation,
            samples,
        } = self;
        let step = step + 1;
        tracing::warn!(
            "loss spike in step {step}: {loss:.4} ({mean:.4} +- {deviation:.4} before): {}",
            few(samples)
        );
        let append = || {
            let mut line = serde_json::to_vec(self)?;
            line.push(b'\n');
            OpenOptions::new().create(true).append(true).open(path)?.write_all(&line)
        };
        append().map_err(EngineError::io("write", path))
    }
}

/// Most samples named in the log. The file names all.
const NAMED: usize = 8;

fn few(samples: &[String]) -> String {
    let text = samples.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    match samples.len().saturating_sub(NAMED) {
        0 => text,
        more => format!("{text} and {more} more, see spikes.jsonl"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks the steps that are spikes in a series of losses.
    fn check(losses: impl Iterator<Item = f64>, threshold: f64, expect: &[usize]) {
        let mut recent = Vec::new();
        let spikes: Vec<_> = losses
            .enumerate()
            .filter_map(|(step, loss)| observe(&mut recent, loss, threshold).map(|_| step))
            .collect();
        assert_eq!(spikes, expect);
        assert!(recent.len() <= WINDOW);
    }

    #[test]
    fn spikes_are_found_once_there_are_recent_losses() {
        let falling = |spike: usize| (0..200).map(move |step| if step == spike { 20.0 } else { 8.0 / (1.0 + step as f64 / 20.0) });
        check(falling(1000), 6.0, &[]);
        check(falling(100), 6.0, &[100]);
        check(falling(3), 6.0, &[]);
        // A nearly constant loss causes no alarm, and every non-finite loss is reported.
        check((0..100).map(|step| 1.0 + 0.001 * f64::from(step % 2)), 6.0, &[]);
        check([f64::NAN, 1.0, f64::INFINITY].into_iter(), 6.0, &[0, 2]);
    }
}
