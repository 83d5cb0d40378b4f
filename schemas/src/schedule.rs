//! Learning rate over the steps.

use crate::optim::at_least_0;
use crate::validate::{Problem, Validate};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Learning rate as a function of the step, counted from 0.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub enum LrScheduler {
    /// NeMo's `CosineAnnealingScheduler`: linear warm-up, cosine to `min_lr` at the last step.
    #[serde(rename = "CosineAnnealing")]
    CosineAnnealing {
        /// Steps of linear warm-up.
        #[serde(default)]
        warmup_steps: u64,
        /// Warm-up as a part of all steps, in place of `warmup_steps`.
        #[serde(default)]
        warmup_ratio: Option<f64>,
        /// Steps at `min_lr` before the end.
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
        /// Warm-up as a part of all steps, in place of `warmup_steps`.
        #[serde(default)]
        warmup_ratio: Option<f64>,
    },
    /// `transformers.get_linear_schedule_with_warmup`: warm-up from 0, straight down to 0.
    #[serde(rename = "LinearWithWarmup")]
    LinearWithWarmup {
        /// Steps of linear warm-up, the first at learning rate 0.
        #[serde(default)]
        warmup_steps: u64,
        /// Warm-up as a part of all steps, in place of `warmup_steps`.
        #[serde(default)]
        warmup_ratio: Option<f64>,
    },
    /// Warm-up, stable, decay: `transformers.get_wsd_schedule`.
    #[serde(rename = "WSD")]
    Wsd {
        /// Steps of warm-up from `min_lr_ratio` x peak.
        #[serde(default)]
        warmup_steps: u64,
        /// Warm-up as a part of all steps, in place of `warmup_steps`.
        #[serde(default)]
        warmup_ratio: Option<f64>,
        /// Steps of decay; they end with the run.
        decay_steps: u64,
        /// Shape of the warm-up.
        #[serde(default = "linear")]
        warmup_type: RampType,
        /// Shape of the decay.
        #[serde(default = "cosine")]
        decay_type: RampType,
        /// Learning rate at the end, as a part of the peak.
        #[serde(default)]
        min_lr_ratio: f64,
    },
    /// The peak learning rate throughout, after a linear warm-up from 0 where one is asked for
    /// (`transformers.get_constant_schedule_with_warmup`).
    #[serde(rename = "Constant")]
    Constant {
        /// Steps of linear warm-up, the first at learning rate 0.
        #[serde(default)]
        warmup_steps: u64,
        /// Warm-up as a part of all steps, in place of `warmup_steps`.
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
    /// `1 - sqrt(progress)` on the way down, its mirror image on the way up.
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
    /// The peak learning rate throughout.
    pub fn constant() -> Self {
        Self::Constant {
            warmup_steps: 0,
            warmup_ratio: None,
        }
    }

    /// Steps of warm-up, and their part of all steps, as they are written.
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

    /// A peak below the schedule's minimum would rise over the run: NeMo refuses it too. A negative one is refused
    /// as such.
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
