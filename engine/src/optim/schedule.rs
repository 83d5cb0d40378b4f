//! Learning rate as a pure function of the step.
//!
//! Each formula keeps its source's order of operations, so that the values agree to the last digit. With inconsistent
//! step counts, e.g. a warm-up longer than the run, some of the sources divide by zero; here every count gives a number.

use neva_schemas::{LrScheduler, RampType};
use std::f64::consts::PI;

/// Returns the learning rate of optimizer step `step`, counted from 0, in a run of `total_steps`; the highest is `peak`.
pub fn learning_rate(schedule: &LrScheduler, peak: f64, total_steps: u64, step: u64) -> f64 {
    let warmup = warmup_steps(schedule, total_steps);
    match *schedule {
        LrScheduler::CosineAnnealing {
            constant_steps: 0, min_lr, ..
        } => cosine_annealing(peak, min_lr, warmup, total_steps, step),
        LrScheduler::CosineAnnealing {
            constant_steps, min_lr, ..
        } => {
            let decay = total_steps.saturating_sub(constant_steps.saturating_add(warmup));
            annealing_then_constant(peak, min_lr, warmup, decay, step)
        }
        LrScheduler::CosineWithWarmup { .. } => peak * cosine_with_warmup(warmup, total_steps, step),
        LrScheduler::LinearWithWarmup { .. } => peak * linear_with_warmup(warmup, total_steps, step),
        LrScheduler::Wsd {
            decay_steps,
            warmup_type,
            decay_type,
            min_lr_ratio,
            ..
        } => {
            let above_min = |factor: f64| (factor * (1.0 - min_lr_ratio) + min_lr_ratio).max(0.0);
            // Offset by the length of the run, because a decay may be longer.
            let decayed = step.saturating_add(decay_steps);
            peak * if step < warmup {
                above_min(up(warmup_type, ratio(step, warmup)))
            } else if decayed < total_steps {
                1.0
            } else if step < total_steps {
                above_min(down(decay_type, ratio(decayed - total_steps, decay_steps)))
            } else {
                min_lr_ratio
            }
        }
        LrScheduler::Constant { .. } => peak * if step < warmup { ratio(step, warmup) } else { 1.0 },
    }
}

/// Returns the warm-up steps. A ratio is rounded as in its source: down by NeMo's `WarmupPolicy`, up by transformers'
/// `TrainingArguments.get_warmup_steps`.
fn warmup_steps(schedule: &LrScheduler, total_steps: u64) -> u64 {
    match (schedule, schedule.warmup()) {
        (_, (steps, None)) => steps,
        (LrScheduler::CosineAnnealing { .. }, (_, Some(ratio))) => (ratio * total_steps as f64) as u64,
        (_, (_, Some(ratio))) => (total_steps as f64 * ratio).ceil() as u64,
    }
}

/// Computes `nemo.core.optim.lr_scheduler.CosineAnnealing` without constant steps.
fn cosine_annealing(peak: f64, min_lr: f64, warmup: u64, total: u64, step: u64) -> f64 {
    if warmup > 0 && step <= warmup {
        return peak * ((step as f64 + 1.0) / (warmup as f64 + 1.0));
    }
    if step > total {
        return min_lr;
    }
    let mult = 0.5 * (1.0 + (PI * (step - warmup) as f64 / (total - warmup).max(1) as f64).cos());
    (peak - min_lr) * mult + min_lr
}

/// Computes the same class with constant steps: `_linear_warmup_with_cosine_annealing`. `warmup + decay` is at most the
/// length of the run, or `decay` is 0.
fn annealing_then_constant(peak: f64, min_lr: f64, warmup: u64, decay: u64, step: u64) -> f64 {
    if warmup > 0 && step <= warmup {
        return peak * step as f64 / warmup as f64;
    }
    if step > warmup + decay {
        return min_lr;
    }
    let coefficient = 0.5 * ((PI * ratio(step - warmup, decay)).cos() + 1.0);
    min_lr + coefficient * (peak - min_lr)
}

/// Returns the factor of `transformers.get_cosine_schedule_with_warmup`. After the last step it rises again, as there.
fn cosine_with_warmup(warmup: u64, total: u64, step: u64) -> f64 {
    if step < warmup {
        return ratio(step, warmup);
    }
    let progress = ratio(step - warmup, total.saturating_sub(warmup));
    (0.5 * (1.0 + (PI * 0.5 * 2.0 * progress).cos())).max(0.0)
}

/// Returns the factor of `transformers.get_linear_schedule_with_warmup`.
fn linear_with_warmup(warmup: u64, total: u64, step: u64) -> f64 {
    if step < warmup {
        return ratio(step, warmup);
    }
    ratio(total.saturating_sub(step), total.saturating_sub(warmup))
}

/// Returns the warm-up factor of `transformers.get_wsd_schedule`, from 0 to 1.
fn up(shape: RampType, progress: f64) -> f64 {
    match shape {
        RampType::Linear => progress,
        RampType::Cosine => 0.5 * (1.0 - (PI * progress).cos()),
        RampType::OneMinusSqrt => 1.0 - (1.0 - progress).sqrt(),
    }
}

/// Returns the decay factor of `transformers.get_wsd_schedule`, from 1 to 0.
fn down(shape: RampType, progress: f64) -> f64 {
    match shape {
        RampType::Linear => 1.0 - progress,
        RampType::Cosine => 0.5 * (1.0 + (PI * 0.5 * 2.0 * progress).cos()),
        RampType::OneMinusSqrt => 1.0 - progress.sqrt(),
    }
}

fn ratio(steps: u64, of: u64) -> f64 {
    steps as f64 / of.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(schedule: LrScheduler, peak: f64, total_steps: u64, expect: &[(u64, f64)]) {
        for (step, value) in expect {
            let got = learning_rate(&schedule, peak, total_steps, *step);
            assert_eq!(
                got.to_bits(),
                value.to_bits(),
                "{schedule:?}, step {step} of {total_steps}: {got:e}, expected {value:e}"
            );
        }
    }

    /// Values printed by the sources' own Python: see `schedule_values.py`.
    #[test]
    fn values_agree_to_the_last_digit() {
        include!("schedule_values.rs");
    }

    /// Returns every kind of schedule with these step counts; minimum rates are fractions of the peak.
    fn schedules(peak: f64, warmup_steps: u64, warmup_ratio: Option<f64>, other_steps: u64, min: f64) -> Vec<LrScheduler> {
        let mut schedules = vec![
            LrScheduler::CosineAnnealing {
                warmup_steps,
                warmup_ratio,
                constant_steps: other_steps,
                min_lr: peak * min,
            },
            LrScheduler::CosineWithWarmup {
                warmup_steps,
                warmup_ratio,
            },
            LrScheduler::LinearWithWarmup {
                warmup_steps,
                warmup_ratio,
            },
            LrScheduler::Constant {
                warmup_steps,
                warmup_ratio,
            },
        ];
        let ramps = [RampType::Linear, RampType::Cosine, RampType::OneMinusSqrt];
        schedules.extend(ramps.into_iter().flat_map(|warmup_type| {
            ramps.map(|decay_type| LrScheduler::Wsd {
                warmup_steps,
                warmup_ratio,
                decay_steps: other_steps,
                warmup_type,
                decay_type,
                min_lr_ratio: min,
            })
        }));
        schedules
    }

    /// Step counts that may be inconsistent: none, one, more than the run, the largest numbers.
    const SIZES: [u64; 8] = [0, 1, 2, 7, 100, 101, u64::MAX - 1, u64::MAX];

    #[test]
    fn every_step_count_gives_a_rate_between_0_and_the_peak() {
        // The sources' formulas may round the peak itself to the next number.
        let check = |schedule: &LrScheduler, peak: f64, total_steps, step| {
            let rate = learning_rate(schedule, peak, total_steps, step);
            let within = rate.is_finite() && 0.0 <= rate && rate <= peak.next_up();
            assert!(within, "{schedule:?}: {rate:e} at step {step} of {total_steps}, peak {peak:e}");
        };
        let steps: Vec<u64> = (0..12).chain(SIZES).chain([50, 51, 99]).collect();
        let ratios = [None, Some(0.0), Some(0.03), Some(0.5), Some(1.0)];
        for peak in [0.0, 3e-4, 0.1] {
            for (warmup_steps, warmup_ratio) in SIZES.into_iter().flat_map(|size| ratios.map(|ratio| (size, ratio))) {
                for (other_steps, min) in SIZES.into_iter().flat_map(|size| [0.0, 0.3, 1.0].map(|min| (size, min))) {
                    for schedule in schedules(peak, warmup_steps, warmup_ratio, other_steps, min) {
                        for total_steps in SIZES {
                            steps.iter().for_each(|&step| check(&schedule, peak, total_steps, step));
                        }
                    }
                }
            }
        }
    }
}
