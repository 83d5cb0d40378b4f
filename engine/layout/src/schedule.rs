//! What each pipeline rank does when: 1F1B (PipeDream-Flush, arXiv:2006.09503) and its interleaved form
//! (Megatron-LM, arXiv:2104.04473), as values.

use serde::Serialize;
use std::collections::BTreeMap;

/// One thing that a stage does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Action {
    /// Forward or backward.
    pub pass: Pass,
    /// Number of the micro-batch within the step.
    pub microbatch: usize,
    /// Which of the stage's sections.
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

/// The actions of one optimizer step on stage `stage` of `stages` with `chunks` sections each: a few forward passes to
/// fill the pipeline, then one forward and one backward pass in turn, then the backward passes that are left.
///
/// Any number of micro-batches is allowed: Megatron's order of the interleaved schedule is that of whole groups of
/// `stages` micro-batches; those that are missing from the last group are left out of it, which keeps its order.
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

/// The forward passes alone, for a validation.
pub fn forward_schedule(stage: usize, stages: usize, chunks: usize, microbatches: usize) -> Vec<Action> {
    let mut actions = schedule(stage, stages, chunks, microbatches);
    actions.retain(|action| action.pass == Pass::Forward);
    actions
}

/// Most micro-batches whose activations a stage holds at once, summed over its sections.
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

/// When each stage does what, replayed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Timeline {
    /// Action, start and end, by stage.
    pub spans: Vec<Vec<(Action, f64, f64)>>,
    /// When the last stage is done.
    pub end: f64,
}

impl Timeline {
    /// Replays schedules: an action starts when its stage is free and what it needs has arrived. `cost` gives the
    /// duration of an action on a stage. `None` where stages wait for each other in a circle.
    pub fn replay(schedules: &[Vec<Action>], chunks: usize, cost: impl Fn(usize, Action) -> f64) -> Option<Self> {
        let stages = schedules.len();
        let sections = stages * chunks;
        let mut done: BTreeMap<(Pass, usize, usize), f64> = BTreeMap::new();
        let mut spans: Vec<Vec<(Action, f64, f64)>> = vec![Vec::new(); stages];
        let left = |spans: &[Vec<_>]| (0..stages).any(|stage| spans[stage].len() < schedules[stage].len());
        while left(&spans) {
            let mut moved = false;
            for stage in 0..stages {
                while let Some(action) = schedules[stage].get(spans[stage].len()).copied() {
                    let section = action.chunk * stages + stage;
                    let needs = match action.pass {
                        Pass::Forward => section.checked_sub(1).map(|before| (Pass::Forward, before)),
                        Pass::Backward if section + 1 == sections => Some((Pass::Forward, section)),
                        Pass::Backward => Some((Pass::Backward, section + 1)),
                    };
                    let arrived = match needs {
                        None => Some(0.0),
                        Some((pass, section)) => done.get(&(pass, section, action.microbatch)).copied(),
                    };
                    let Some(arrived) = arrived else { break };
                    let free = spans[stage].last().map_or(0.0, |(_, _, end)| *end);
                    let start = arrived.max(free);
                    let end = start + cost(stage, action);
                    done.insert((action.pass, section, action.microbatch), end);
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

    /// Idle time of the pipeline as a share of its busy time, mean over the stages: `(p - 1) / (m v)` in theory for
    /// `m` micro-batches, `p` stages of `v` sections and equal costs.
    pub fn bubble(&self) -> f64 {
        let busy: f64 = self.spans.iter().flatten().map(|(_, start, end)| end - start).sum();
        (self.end * self.spans.len() as f64 - busy) / busy
    }
}
