//! Optimizer and learning-rate schedule.

use crate::validate::{Problem, Validate};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The optimizer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub enum Optim {
    /// Adam with decoupled weight decay, fp32 master weights and moments.
    #[serde(rename = "optim.AdamW")]
    AdamW(AdamW),
}

impl Optim {
    /// The AdamW settings that every variant has today.
    pub fn adamw(&self) -> &AdamW {
        match self {
            Self::AdamW(adamw) => adamw,
        }
    }

    /// Mutable access to the AdamW settings.
    pub fn adamw_mut(&mut self) -> &mut AdamW {
        match self {
            Self::AdamW(adamw) => adamw,
        }
    }
}

/// NeMo's `distributed_fused_adam_with_cosine_annealing`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AdamW {
    /// Peak learning rate.
    pub lr: f64,
    /// Decoupled weight decay; biases and one-dimensional parameters have none.
    pub weight_decay: f64,
    /// Decay of the first and the second moment.
    pub betas: (f64, f64),
    /// Added to the denominator.
    pub eps: f64,
    /// Global L2 norm that gradients are clipped to; 0 clips nothing.
    pub clip_grad: f64,
    /// Learning rate over the steps.
    pub lr_scheduler: LrScheduler,
}

impl Default for AdamW {
    fn default() -> Self {
        Self {
            lr: 2e-5,
            weight_decay: 0.1,
            betas: (0.9, 0.95),
            eps: 1e-5,
            clip_grad: 1.0,
            lr_scheduler: LrScheduler::default(),
        }
    }
}

/// Learning rate as a function of the step, counted from 0.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub enum LrScheduler {
    /// NeMo's `CosineAnnealingScheduler`: linear warm-up, cosine to `min_lr` at `trainer.max_steps`.
    #[serde(rename = "CosineAnnealing")]
    CosineAnnealing {
        /// Steps of linear warm-up.
        #[serde(default)]
        warmup_steps: u64,
        /// Steps at `min_lr` before `max_steps`.
        #[serde(default)]
        constant_steps: u64,
        /// Learning rate at the end.
        #[serde(default)]
        min_lr: f64,
    },
    /// `transformers.get_cosine_schedule_with_warmup`: warm-up from 0, cosine to 0.
    #[serde(rename = "CosineWithWarmup")]
    CosineWithWarmup {
        /// Steps of linear warm-up, the first at learning rate 0.
        #[serde(default)]
        warmup_steps: u64,
    },
    /// The peak learning rate throughout.
    #[serde(rename = "Constant")]
    Constant {},
}

impl Default for LrScheduler {
    fn default() -> Self {
        Self::CosineAnnealing {
            warmup_steps: 150,
            constant_steps: 0,
            min_lr: 2e-7,
        }
    }
}

impl Validate for AdamW {
    fn validate(&self, path: &str, problems: &mut Vec<Problem>) {
        let mut within = |name: &str, value: f64, ok: bool, rule: &str| {
            if !ok {
                problems.push(Problem::error(
                    format!("{path}.{name}"),
                    format!("`{name}` is {value:?}, it must be {rule}"),
                ));
            }
        };
        within("lr", self.lr, self.lr.is_finite() && self.lr >= 0.0, "at least 0 and finite");
        within(
            "weight_decay",
            self.weight_decay,
            self.weight_decay.is_finite() && self.weight_decay >= 0.0,
            "at least 0 and finite",
        );
        within("betas", self.betas.0, (0.0..1.0).contains(&self.betas.0), "at least 0 and below 1");
        within("betas", self.betas.1, (0.0..1.0).contains(&self.betas.1), "at least 0 and below 1");
        within("eps", self.eps, self.eps.is_finite() && self.eps >= 0.0, "at least 0 and finite");
        within(
            "clip_grad",
            self.clip_grad,
            self.clip_grad.is_finite() && self.clip_grad >= 0.0,
            "at least 0 and finite",
        );
        if let LrScheduler::CosineAnnealing { min_lr, .. } = self.lr_scheduler {
            within(
                "lr_scheduler.min_lr",
                min_lr,
                min_lr.is_finite() && min_lr >= 0.0,
                "at least 0 and finite",
            );
            if self.lr < min_lr {
                problems.push(
                    Problem::error(
                        format!("{path}.lr_scheduler.min_lr"),
                        format!("the learning rate {:?} is lower than the schedule's minimum {min_lr:?}", self.lr),
                    )
                    .help(format!("raise `{path}.lr` or lower `min_lr`")),
                );
            }
        }
    }
}
