//! Pipeline schedules: 1F1B (PipeDream-Flush, arXiv:2006.09503) and interleaved 1F1B (Megatron-LM, arXiv:2104.04473).

use serde::Serialize;
use std::collections::BTreeMap;

/// One action of a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Action {
    /// Forward or backward.
    pub pass: Pass,
    /// Number of the microbatch within the step.
    pub microbatch: usize,
    /// Number of the model chunk within the stage.
    pub chunk: usize,
}

/// Direction through the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Pass {
    /// From the embedding to the loss.
    Forward,
    /// From the loss to the embedding.
    Backward,
}

/// Returns the actions of one optimizer step on stage `stage` of `stages` with `chunks` model chunks each: warm-up forward
/// passes, then alternating forward and backward passes, then the remaining backward passes.
///
/// Any number of microbatches is allowed. Megatron's interleaved schedule needs whole groups of `stages` microbatches;
/// here the missing ones of the last group are skipped, which keeps the order.
pub fn schedule(stage: usize, stages: usize, chunks: usize, microbatches: usize) -> Vec<Action> {
    let whole = if chunks == 1 {
        microbatches
    } else {
        microbatches.next_multiple_of(stages)
    };
    let total = whole * chunks;
    let warmup = if chunks == 1 {
        stages - stage - 1
    } else {
        2 * (stages - stage - 1) + (chunks - 1) * stages
    };
    let warmup = warmup.min(total);
    let action = |pass, index: usize| {
        let (group, within) = (index / (stages * chunks), index % (stages * chunks));
        let (chunk, microbatch) = if chunks == 1 {
            (0, index)
        } else {
            (within / stages, group * stages + within % stages)
        };
        let chunk = match pass {
            Pass::Forward => chunk,
            Pass::Backward => chunks - 1 - chunk,
        };
        Action { pass, microbatch, chunk }
    };
    let mut actions: Vec<_> = (0..warmup).map(|index| action(Pass::Forward, index)).collect();
    for index in 0..total {
        if warmup + index < total {
            actions.push(action(Pass::Forward, warmup + index));
        }
        actions.push(action(Pass::Backward, index));
    }
    actions.retain(|action| action.microbatch < microbatches);
    actions
}

/// Returns the forward passes alone, for validation.
pub fn forward_schedule(stage: usize, stages: usize, chunks: usize, microbatches: usize) -> Vec<Action> {
    let mut actions = schedule(stage, stages, chunks, microbatches);
    actions.retain(|action| action.pass == Pass::Forward);
    actions
}

/// Returns the largest number of microbatches whose activations a stage holds at once, summed over its model chunks.
pub fn most_in_flight(actions: &[Action]) -> usize {
    let (mut now, mut most) = (0, 0);
    for action in actions {
        match action.pass {
            Pass::Forward => now += 1,
            Pass::Backward => now -= 1,
        }
        most = most.max(now);
    }
    most
}

/// Simulated start and end of each action.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Timeline {
    /// Action, start and end, by stage.
    pub spans: Vec<Vec<(Action, f64, f64)>>,
    /// End of the last action.
    pub end: f64,
}

impl Timeline {
    /// Simulates schedules: an action starts when its stage is free and its input has arrived. `cost` returns the
    /// duration of an action on a stage. Returns `None` if stages deadlock.
    pub fn replay(schedules: &[Vec<Action>], chunks: usize, cost: impl Fn(usize, Action) -> f64) -> Option<Self> {
        let stages = schedules.len();
        let total_chunks = stages * chunks;
        let mut done: BTreeMap<(Pass, usize, usize), f64> = BTreeMap::new();
        let mut spans: Vec<Vec<(Action, f64, f64)>> = vec![Vec::new(); stages];
        let left = |spans: &[Vec<_>]| (0..stages).any(|stage| spans[stage].len() < schedules[stage].len());
        while left(&spans) {
            let mut moved = false;
            for stage in 0..stages {
                while let Some(action) = schedules[stage].get(spans[stage].len()).copied() {
                    let number = action.chunk * stages + stage;
                    let needs = match action.pass {
                        Pass::Forward => number.checked_sub(1).map(|before| (Pass::Forward, before)),
                        Pass::Backward if number + 1 == total_chunks => Some((Pass::Forward, number)),
                        Pass::Backward => Some((Pass::Backward, number + 1)),
                    };
                    let arrived = match needs {
                        None => Some(0.0),
                        Some((pass, number)) => done.get(&(pass, number, action.microbatch)).copied(),
                    };
                    let Some(arrived) = arrived else { break };
                    let free = spans[stage].last().map_or(0.0, |(_, _, end)| *end);
                    let start = arrived.max(free);
                    let end = start + cost(stage, action);
                    done.insert((action.pass, number, action.microbatch), end);
                    spans[stage].push((action, start, end));
                    moved = true;
                }
            }
            if !moved {
                return None;
            }
        }
        let end = spans
            .iter()
            .filter_map(|spans| spans.last())
            .map(|(_, _, end)| *end)
            .fold(0.0, f64::max);
        Some(Self { spans, end })
    }

    /// Returns the ratio of idle to busy time, mean over the stages: in theory `(p - 1) / (m v)` for `m` microbatches,
    /// `p` stages of `v` model chunks and equal costs.
    pub fn bubble(&self) -> f64 {
        let busy: f64 = self.spans.iter().flatten().map(|(_, start, end)| end - start).sum();
        (self.end * self.spans.len() as f64 - busy) / busy
    }
}
