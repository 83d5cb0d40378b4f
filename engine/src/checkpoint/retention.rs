//! Retention: chooses the checkpoints to keep.

use super::folder::remove;
use super::newest::checkpoints_in;
use super::state::RunProgress;
use neva_schemas::ModelCheckpoint;
use std::path::Path;

/// The fields of a checkpoint that retention depends on.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Candidate {
    /// Completed optimizer steps.
    steps_done: u64,
    /// The monitored metric, if it was measured.
    metric: Option<f64>,
}

impl Candidate {
    /// Orders the best first, those without the metric last, and equals newest first.
    fn order(&self, other: &Self, config: &ModelCheckpoint) -> std::cmp::Ordering {
        use std::cmp::Ordering;
        let by_metric = match (self.metric, other.metric) {
            (Some(a), Some(b)) if config.mode.better(a, b) => Ordering::Less,
            (Some(a), Some(b)) if config.mode.better(b, a) => Ordering::Greater,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            _ => Ordering::Equal,
        };
        by_metric.then(other.steps_done.cmp(&self.steps_done))
    }
}

/// Returns for each candidate whether it is kept: the best `save_top_k`, and with `save_last` the newest.
fn kept(candidates: &[Candidate], config: &ModelCheckpoint) -> Vec<bool> {
    let mut by_rank: Vec<_> = (0..candidates.len()).collect();
    by_rank.sort_by(|a, b| candidates[*a].order(&candidates[*b], config));
    let top = usize::try_from(config.save_top_k).unwrap_or(usize::MAX);
    let newest = candidates.iter().map(|candidate| candidate.steps_done).max();
    let mut kept = vec![false; candidates.len()];
    for (rank, index) in by_rank.into_iter().enumerate() {
        let is_last = config.save_last && Some(candidates[index].steps_done) == newest;
        kept[index] = rank < top || is_last;
    }
    kept
}

/// Returns true if a checkpoint with this metric would be among the best `save_top_k`, compared with `others`.
fn is_in_top_k(metric: f64, others: &[Candidate], config: &ModelCheckpoint) -> bool {
    let top = usize::try_from(config.save_top_k).unwrap_or(usize::MAX);
    let better = others
        .iter()
        .filter(|other| other.metric.is_some_and(|other| config.mode.better(other, metric)))
        .count();
    better < top
}

/// Returns true if a checkpoint with this metric would be among the best, compared with those in `parent`.
pub fn is_among_best(parent: &Path, metric: f64, config: &ModelCheckpoint) -> bool {
    let others: Vec<_> = checkpoints_in(parent)
        .iter()
        .map(|checkpoint| candidate(&checkpoint.state.progress, config))
        .collect();
    is_in_top_k(metric, &others, config)
}

/// Removes checkpoints that need not be kept. A failure is only logged: it costs disk space.
pub(super) fn prune(parent: &Path, config: &ModelCheckpoint) {
    let checkpoints = checkpoints_in(parent);
    let candidates: Vec<_> = checkpoints
        .iter()
        .map(|checkpoint| candidate(&checkpoint.state.progress, config))
        .collect();
    for (checkpoint, kept) in checkpoints.iter().zip(kept(&candidates, config)) {
        if kept {
            continue;
        }
        if let Err(error) = remove(&checkpoint.path) {
            tracing::warn!("cannot remove the older checkpoint {}: {error}", checkpoint.path.display());
        }
    }
}

fn candidate(progress: &RunProgress, config: &ModelCheckpoint) -> Candidate {
    Candidate {
        steps_done: progress.steps_done,
        metric: progress.metrics.get(&config.monitor).copied(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use neva_schemas::MetricMode;

    fn check(top: i64, last: bool, mode: MetricMode, metrics: &[Option<f64>], expect: &[u64]) {
        let config = ModelCheckpoint {
            save_top_k: top,
            save_last: last,
            mode,
            ..ModelCheckpoint::default()
        };
        let candidates: Vec<_> = (1..)
            .zip(metrics)
            .map(|(steps_done, metric)| Candidate {
                steps_done,
                metric: *metric,
            })
            .collect();
        let kept = kept(&candidates, &config);
        let steps: Vec<_> = (1..).zip(kept).filter_map(|(step, kept)| kept.then_some(step)).collect();
        assert_eq!(steps, expect, "top {top}, last {last}, {mode:?}, {metrics:?}");
    }

    #[test]
    fn the_best_and_the_last_are_kept() {
        use MetricMode::{Max, Min};
        let falling = [Some(3.0), Some(1.0), Some(2.0), Some(2.5)];
        check(2, true, Min, &falling, &[2, 3, 4]);
        check(2, false, Min, &falling, &[2, 3]);
        check(2, true, Max, &falling, &[1, 4]);
        check(0, true, Min, &falling, &[4]);
        check(-1, false, Min, &falling, &[1, 2, 3, 4]);
        // Among equals, and among those without a metric, the newest are the best.
        check(2, false, Min, &[Some(1.0); 4], &[3, 4]);
        check(2, false, Min, &[None; 4], &[3, 4]);
        check(2, false, Min, &[None, Some(9.0), None, None], &[2, 4]);
        check(2, true, Min, &[], &[]);
    }

    #[test]
    fn a_metric_is_in_the_top_k_while_fewer_are_better() {
        let config = ModelCheckpoint {
            save_top_k: 2,
            ..ModelCheckpoint::default()
        };
        let others = [1.0, 2.0].map(|metric| Candidate {
            steps_done: 1,
            metric: Some(metric),
        });
        for (metric, expect) in [(0.5, true), (1.5, true), (2.0, true), (2.5, false)] {
            assert_eq!(is_in_top_k(metric, &others, &config), expect, "{metric}");
        }
    }
}
