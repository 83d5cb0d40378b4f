//! Table of where the steps of a profile went.

use super::nesting::{Nested, nested, step_thread};
use super::{RankProfile, StepWork, phase};
use crate::profiler::{Details, Recorded};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;

/// Format number of the summary in `profile.json`.
pub const PROFILE_FORMAT: u32 = 1;

/// Means over the measured steps and all ranks.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ProfileSummary {
    /// Format number, [`PROFILE_FORMAT`].
    pub format: u32,
    /// Number of ranks.
    pub ranks: usize,
    /// Threads of each rank.
    pub threads: u32,
    /// The measured steps, from 0. The first step of the process is only among them if it is the only one.
    pub steps: Vec<u64>,
    /// Unix time at which the trace begins, in microseconds.
    pub started_unix_us: u64,
    /// Time of a step, with the validation and the saves after it.
    pub step_ms: f64,
    /// Processor time of a step, of the whole process.
    pub processor_ms: f64,
    /// Phases, which add up to the step, and the parts of phases.
    pub phases: Vec<PhaseTime>,
    /// Time of a step in which a rank waits for collectives, in any phase.
    pub collective_ms: f64,
    /// Collectives and transfers of a rank in a step.
    pub collectives: f64,
    /// Bytes that a rank sends in a step.
    pub sent_bytes: f64,
    /// Positions a second, over all ranks, validation and saves left out.
    pub tokens_per_second: f64,
    /// Operations of the model in a step, over all ranks.
    pub model_flops: f64,
    /// Operations of the matrix products that ran in a step, over all ranks.
    pub product_flops: f64,
    /// Operations a second of a large matrix product, summed over all ranks.
    pub peak_flops: f64,
    /// Data type of the matrix products.
    pub precision: String,
    /// Model FLOPs utilization: `model_flops` a second, of `peak_flops`. Validation and saves are left out.
    pub mfu: f64,
    /// Share of the step that its matrix products would take at the peak.
    pub product_share: f64,
}

/// Time of a phase in a step.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PhaseTime {
    /// Phase.
    pub name: String,
    /// The phase that it is a part of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub part_of: Option<String>,
    /// Mean time.
    pub ms: f64,
    /// Mean time on the rank that takes the longest.
    pub slowest_ms: f64,
    /// Share of the step.
    pub share: f64,
    /// Processor time of the whole process.
    pub processor_ms: f64,
}

/// Sums of one rank over its measured steps, in nanoseconds.
#[derive(Default)]
struct Sums {
    step: Time,
    /// By phase and, for parts, name.
    phases: BTreeMap<(String, Option<String>), Time>,
    collectives: Time,
    calls: u64,
    bytes: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Time {
    wall: u64,
    processor: u64,
}

impl Time {
    fn add(&mut self, wall: u64, processor: u64) {
        self.wall += wall;
        self.processor += processor;
    }
}

impl Sums {
    /// Sums what happened in `steps`.
    fn of(recorded: &Recorded, steps: &[u64]) -> Self {
        let mut sums = Self::default();
        let Some(thread) = step_thread(recorded) else { return sums };
        let spans = nested(recorded, thread);
        // Index of the step and of the phase around each span; a step and a phase are in themselves.
        let mut around: Vec<(Option<usize>, Option<usize>)> = Vec::with_capacity(spans.len());
        for (index, Nested { span, parent }) in spans.iter().enumerate() {
            let (step, of_phase) = parent.map_or((None, None), |parent| around[parent]);
            let place = match (&span.details, step) {
                (Details::Step(step), _) if steps.contains(step) => (Some(index), None),
                (_, Some(_)) => (step, of_phase.or(Some(index))),
                _ => (None, None),
            };
            around.push(place);
            let (wall, processor) = (span.end - span.start, span.processor);
            match place {
                (Some(step), None) if step == index => sums.step.add(wall, processor),
                (Some(_), Some(within)) => {
                    let name = phase_of(spans[within].span);
                    let is_collective = matches!(span.details, Details::Collective { .. });
                    if within == index {
                        sums.phases.entry((name.clone(), None)).or_default().add(wall, processor);
                    } else if !is_collective && *parent == Some(within) {
                        let part = (name, Some(span.name.to_string()));
                        sums.phases.entry(part).or_default().add(wall, processor);
                    }
                    if let Details::Collective { bytes, .. } = &span.details {
                        sums.collectives.add(wall, 0);
                        sums.calls += 1;
                        sums.bytes += if span.name == "recv" { 0 } else { *bytes };
                    }
                }
                _ => {}
            }
        }
        let phases = sums.phases.iter().filter(|((_, part), _)| part.is_none());
        let (mut wall, mut processor) = (0, 0);
        phases.for_each(|(_, time)| {
            wall += time.wall;
            processor += time.processor;
        });
        let other = Time {
            wall: sums.step.wall.saturating_sub(wall),
            processor: sums.step.processor.saturating_sub(processor),
        };
        sums.phases.insert((phase::OTHER.to_owned(), None), other);
        sums
    }
}

/// Returns the phase that a span directly below a step belongs to.
fn phase_of(span: &crate::profiler::Span) -> String {
    match span.details {
        Details::Collective { .. } => phase::COMMUNICATION.to_owned(),
        _ => span.name.to_string(),
    }
}

impl ProfileSummary {
    /// Summarizes what the ranks recorded.
    pub fn of(ranks: &[RankProfile]) -> Self {
        let all: Vec<_> = ranks
            .first()
            .map_or(Vec::new(), |rank| rank.steps.iter().map(|work| work.step).collect());
        // The first step fills caches and pools of memory.
        let steps = if all.len() > 1 { all[1..].to_vec() } else { all };
        let sums: Vec<_> = ranks.iter().map(|rank| Sums::of(&rank.recorded, &steps)).collect();
        let (count, over) = (steps.len().max(1) as f64, (steps.len() * ranks.len()).max(1) as f64);
        let ms = |nanoseconds: u64, over: f64| nanoseconds as f64 / over / 1e6;
        let mean = |of: &dyn Fn(&Sums) -> u64| ms(sums.iter().map(of).sum(), over);
        let step_ms = mean(&|sums| sums.step.wall);
        let share = |part: f64| if step_ms > 0.0 { part / step_ms } else { 0.0 };
        let mut keys: Vec<_> = sums.iter().flat_map(|sums| sums.phases.keys()).collect();
        keys.sort_by_key(|(name, part)| {
            let place = phase::ALL.iter().position(|known| known == name);
            (place.unwrap_or(phase::ALL.len() - 1), name.clone(), part.clone())
        });
        keys.dedup();
        let phases: Vec<_> = keys
            .into_iter()
            .map(|key| {
                let time = |sums: &Sums| sums.phases.get(key).copied().unwrap_or_default();
                let wall = mean(&|sums| time(sums).wall);
                PhaseTime {
                    name: key.1.clone().unwrap_or_else(|| key.0.clone()),
                    part_of: key.1.as_ref().map(|_| key.0.clone()),
                    ms: wall,
                    slowest_ms: sums.iter().map(|sums| ms(time(sums).wall, count)).fold(0.0, f64::max),
                    share: share(wall),
                    processor_ms: mean(&|sums| time(sums).processor),
                }
            })
            .collect();
        let beside = phases.iter().filter(|phase| phase.part_of.is_none());
        let beside = beside.filter(|phase| [phase::VALIDATE, phase::SAVE].contains(&phase.name.as_str()));
        let training_s = (step_ms - beside.map(|phase| phase.ms).sum::<f64>()).max(1e-6) / 1e3;
        let work = |of: &dyn Fn(&StepWork) -> f64| -> f64 {
            let all = ranks.iter().flat_map(|rank| &rank.steps);
            all.filter(|work| steps.contains(&work.step)).map(of).sum::<f64>() / count
        };
        let (model_flops, product_flops) = (work(&|work| work.model_flops), work(&|work| work.product_flops));
        let peak_flops: f64 = ranks.iter().map(|rank| rank.peak_flops).sum();
        let of_peak = |flops: f64| if peak_flops > 0.0 { flops / training_s / peak_flops } else { 0.0 };
        Self {
            format: PROFILE_FORMAT,
            ranks: ranks.len(),
            threads: ranks.first().map_or(0, |rank| rank.threads),
            started_unix_us: ranks.iter().map(|rank| rank.recorded.started_unix_us).min().unwrap_or(0),
            step_ms,
            processor_ms: mean(&|sums| sums.step.processor),
            phases,
            collective_ms: mean(&|sums| sums.collectives.wall),
            collectives: sums.iter().map(|sums| sums.calls).sum::<u64>() as f64 / over,
            sent_bytes: sums.iter().map(|sums| sums.bytes).sum::<u64>() as f64 / over,
            tokens_per_second: work(&|work| work.tokens as f64) / training_s,
            model_flops,
            product_flops,
            peak_flops,
            precision: ranks.first().map_or(String::new(), |rank| rank.precision.dtype().to_string()),
            mfu: of_peak(model_flops),
            product_share: of_peak(product_flops),
            steps,
        }
    }
}

impl fmt::Display for ProfileSummary {
    /// Writes the table.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let several = self.ranks > 1;
        let first = self.steps.first().map_or(0, |step| step + 1);
        let last = self.steps.last().map_or(0, |step| step + 1);
        let steps = if first == last {
            format!("step {last}")
        } else {
            format!("steps {first} to {last}")
        };
        let ranks = if several {
            format!(" on {} ranks", self.ranks)
        } else {
            String::new()
        };
        writeln!(f, "profile of {steps}{ranks}: means of a step")?;
        let slowest = |text: &str| if several { format!("{text:>14}") } else { String::new() };
        let head = slowest("slowest rank");
        writeln!(f, "{:<22}{:>11}{:>9}{head}{:>14}", "phase", "ms", "share", "processor ms")?;
        let mut line = |name: &str, ms: f64, share: f64, slowest_ms: f64, processor: f64| {
            let slowest = slowest(&format!("{slowest_ms:.1}"));
            writeln!(f, "{name:<22}{ms:>11.1}{:>7.1} %{slowest}{processor:>14.1}", 100.0 * share)
        };
        for phase in &self.phases {
            let name = match &phase.part_of {
                Some(_) => format!("  {}", phase.name),
                None => phase.name.clone(),
            };
            line(&name, phase.ms, phase.share, phase.slowest_ms, phase.processor_ms)?;
        }
        line("step", self.step_ms, 1.0, self.step_ms, self.processor_ms)?;
        if self.collectives > 0.0 {
            let share = 100.0 * self.collective_ms / self.step_ms.max(1e-9);
            writeln!(
                f,
                "collectives           {:>11.1}{share:>7.1} %   in all phases: {:.0} of a rank, {:.3} MB sent",
                self.collective_ms,
                self.collectives,
                self.sent_bytes / 1e6
            )?;
        }
        writeln!(
            f,
            "{:.1} tokens/s, {:.3} model GFLOP a step, {:.1} GFLOP/s at the {} peak of a matrix product",
            self.tokens_per_second,
            self.model_flops / 1e9,
            self.peak_flops / 1e9,
            self.precision
        )?;
        writeln!(
            f,
            "MFU {:.1} %; the step's matrix products would take {:.1} % of it at that peak",
            100.0 * self.mfu,
            100.0 * self.product_share
        )
    }
}
