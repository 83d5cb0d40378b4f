//! Learning rate as a pure function of the step.

use neva_schemas::{AdamW, LrScheduler};
use std::f64::consts::PI;

/// Learning rate of optimizer step `step`, counted from 0, in a run of `max_steps`. Each formula keeps its
/// source's order of operations, so that the values agree to the last digit.
pub fn learning_rate(optim: &AdamW, max_steps: u64, step: u64) -> f64 {
    match optim.lr_scheduler {
        LrScheduler::Constant {} => optim.lr,
        LrScheduler::CosineAnnealing {
            warmup_steps,
            constant_steps: 0,
            min_lr,
        } => cosine_annealing(optim.lr, min_lr, warmup_steps, max_steps, step),
        LrScheduler::CosineAnnealing {
            warmup_steps,
            constant_steps,
            min_lr,
        } => {
            let decay_steps = max_steps.saturating_sub(constant_steps + warmup_steps);
            annealing_then_constant(optim.lr, min_lr, warmup_steps, decay_steps, step)
        }
        LrScheduler::CosineWithWarmup { warmup_steps } => optim.lr * cosine_with_warmup(warmup_steps, max_steps, step),
    }
}

/// `nemo.core.optim.lr_scheduler.CosineAnnealing` without constant steps.
fn cosine_annealing(lr: f64, min_lr: f64, warmup: u64, max_steps: u64, step: u64) -> f64 {
    if warmup > 0 && step <= warmup {
        return lr * ((step + 1) as f64 / (warmup + 1) as f64);
    }
    if step > max_steps {
        return min_lr;
    }
    let mult = 0.5 * (1.0 + (PI * (step - warmup) as f64 / (max_steps - warmup) as f64).cos());
    (lr - min_lr) * mult + min_lr
}

/// The same class with constant steps: `_linear_warmup_with_cosine_annealing`.
fn annealing_then_constant(lr: f64, min_lr: f64, warmup: u64, decay: u64, step: u64) -> f64 {
    if warmup > 0 && step <= warmup {
        return lr * step as f64 / warmup as f64;
    }
    if step > warmup + decay {
        return min_lr;
    }
    // `decay` is 0 only where warm-up and constant steps fill the run: NeMo divides by it and fails.
    let ratio = (step - warmup) as f64 / decay.max(1) as f64;
    let coefficient = 0.5 * ((PI * ratio).cos() + 1.0);
    min_lr + coefficient * (lr - min_lr)
}

/// Factor of `transformers.get_cosine_schedule_with_warmup`.
fn cosine_with_warmup(warmup: u64, total: u64, step: u64) -> f64 {
    if step < warmup {
        return step as f64 / warmup.max(1) as f64;
    }
    let progress = (step - warmup) as f64 / total.saturating_sub(warmup).max(1) as f64;
    (0.5 * (1.0 + (PI * 0.5 * 2.0 * progress).cos())).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(lr_scheduler: LrScheduler, lr: f64, max_steps: u64, expect: &[(u64, f64)]) {
        let optim = AdamW {
            lr,
            lr_scheduler,
            ..AdamW::default()
        };
        for (step, value) in expect {
            let got = learning_rate(&optim, max_steps, *step);
            assert_eq!(got.to_bits(), value.to_bits(), "step {step}: {got:e}, expected {value:e}");
        }
    }

    /// Values printed by the sources' own Python.
    #[test]
    fn values_agree_to_the_last_digit() {
        include!("schedule_values.rs");
    }
}
