//! Learning-rate schedules.

use crate::validate::{Problem, Validate, at_least_0};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Learning-rate schedule: a function of the step, from 0.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub enum LrScheduler {
    /// NeMo's `CosineAnnealingScheduler`: linear warm-up, cosine to `min_lr` at the last step.
    #[serde(rename = "CosineAnnealing")]
    CosineAnnealing {
        /// Steps of linear warm-up.
        #[serde(default)]
        warmup_steps: u64,
        /// Warm-up as a fraction of all steps, instead of `warmup_steps`.
        #[serde(default)]
        warmup_ratio: Option<f64>,
        /// Steps at `min_lr` before the end.
        #[serde(default)]
        constant_steps: u64,
        /// Final learning rate.
        #[serde(default)]
        min_lr: f64,
    },
    /// `transformers.get_cosine_schedule_with_warmup`: warm-up from 0, cosine to 0.
    #[serde(rename = "CosineWithWarmup")]
    CosineWithWarmup {
        /// Steps of linear warm-up, the first at learning rate 0.
        #[serde(default)]
        warmup_steps: u64,
        /// Warm-up as a fraction of all steps, instead of `warmup_steps`.
        #[serde(default)]
        warmup_ratio: Option<f64>,
    },
    /// `transformers.get_linear_schedule_with_warmup`: warm-up from 0, linear decay to 0.
    #[serde(rename = "LinearWithWarmup")]
    LinearWithWarmup {
        /// Steps of linear warm-up, the first at learning rate 0.
        #[serde(default)]
        warmup_steps: u64,
        /// Warm-up as a fraction of all steps, instead of `warmup_steps`.
        #[serde(default)]
        warmup_ratio: Option<f64>,
    },
    /// Warm-up, stable, decay: `transformers.get_wsd_schedule`.
    #[serde(rename = "WSD")]
    Wsd {
        /// Steps of warm-up from `min_lr_ratio` x peak.
        #[serde(default)]
        warmup_steps: u64,
        /// Warm-up as a fraction of all steps, instead of `warmup_steps`.
        #[serde(default)]
        warmup_ratio: Option<f64>,
        /// Steps of decay at the end of the run.
        decay_steps: u64,
        /// Shape of the warm-up.
        #[serde(default = "linear")]
        warmup_type: RampType,
        /// Shape of the decay.
        #[serde(default = "cosine")]
        decay_type: RampType,
        /// Final learning rate as a fraction of the peak.
        #[serde(default)]
        min_lr_ratio: f64,
    },
    /// Constant peak learning rate after an optional linear warm-up from 0
    /// (`transformers.get_constant_schedule_with_warmup`).
    #[serde(rename = "Constant")]
    Constant {
        /// Steps of linear warm-up, the first at learning rate 0.
        #[serde(default)]
        warmup_steps: u64,
        /// Warm-up as a fraction of all steps, instead of `warmup_steps`.
        #[serde(default)]
        warmup_ratio: Option<f64>,
    },
}

/// Shape of a ramp between two learning rates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RampType {
    /// A straight line.
    Linear,
    /// Half a cosine.
    Cosine,
    /// `1 - sqrt(progress)` for decay, its mirror image for warm-up.
    #[serde(rename = "1-sqrt")]
    OneMinusSqrt,
}

fn linear() -> RampType {
    RampType::Linear
}

fn cosine() -> RampType {
    RampType::Cosine
}

impl Default for LrScheduler {
    fn default() -> Self {
        Self::CosineAnnealing {
            warmup_steps: 150,
            warmup_ratio: None,
            constant_steps: 0,
            min_lr: 2e-7,
        }
    }
}

impl LrScheduler {
    /// Returns a constant schedule without warm-up.
    pub fn constant() -> Self {
        Self::Constant {
            warmup_steps: 0,
            warmup_ratio: None,
        }
    }

    /// Returns `warmup_steps` and `warmup_ratio`, as written.
    pub fn warmup(&self) -> (u64, Option<f64>) {
        match self {
            Self::CosineAnnealing {
                warmup_steps,
                warmup_ratio,
                ..
            }
            | Self::CosineWithWarmup {
                warmup_steps,
                warmup_ratio,
            }
            | Self::LinearWithWarmup {
                warmup_steps,
                warmup_ratio,
            }
            | Self::Wsd {
                warmup_steps,
                warmup_ratio,
                ..
            }
            | Self::Constant {
                warmup_steps,
                warmup_ratio,
            } => (*warmup_steps, *warmup_ratio),
        }
    }

    /// Refuses a peak below the schedule's minimum, which would make the rate rise over the run; NeMo refuses it too. A
    /// negative peak is refused elsewhere.
    pub(crate) fn validate_peak(&self, path: &str, name: &str, peak: f64, problems: &mut Vec<Problem>) {
        let Self::CosineAnnealing { min_lr, .. } = self else { return };
        if (0.0..*min_lr).contains(&peak) {
            problems.push(
                Problem::error(
                    format!("{path}.{name}"),
                    format!("the learning rate {peak:?} is lower than the schedule's minimum {min_lr:?}"),
                )
                .help("raise it, or lower `lr_scheduler.min_lr`"),
            );
        }
    }
}

impl Validate for LrScheduler {
    fn validate(&self, path: &str, problems: &mut Vec<Problem>) {
        let (steps, ratio) = self.warmup();
        if let Some(ratio) = ratio {
            if !(0.0..=1.0).contains(&ratio) {
                let message = format!("`warmup_ratio` is {ratio:?}, it must be between 0 and 1");
                problems.push(Problem::error(format!("{path}.warmup_ratio"), message));
            }
            if steps > 0 {
                let message = format!("both `warmup_steps` {steps} and `warmup_ratio` {ratio:?} are set");
                problems.push(
                    Problem::error(format!("{path}.warmup_ratio"), message).help("set `warmup_steps` to 0, or `warmup_ratio` to null"),
                );
            }
        }
        match self {
            Self::CosineAnnealing { min_lr, .. } => at_least_0(path, problems, "min_lr", *min_lr),
            Self::Wsd { min_lr_ratio, .. } if !(0.0..=1.0).contains(min_lr_ratio) => {
                let message = format!("`min_lr_ratio` is {min_lr_ratio:?}, it must be between 0 and 1");
                problems.push(Problem::error(format!("{path}.min_lr_ratio"), message));
            }
            _ => {}
        }
    }
}
