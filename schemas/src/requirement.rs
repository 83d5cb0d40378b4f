//! Conditions on what a run does, checked after its first step.

use crate::attention_backend::AttentionBackend;
use crate::validate::Problem;

/// Names and forms of all requirements, for help.
const FORMS: &str = "fp8, fp8>=0.95, adapters, gradients, packing, packing>=0.9, attention=flash";

/// A condition on what ran.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Requirement {
    /// FP8 share of the floating point operations of the base linears of the language model's layers.
    Fp8 {
        /// Smallest share; `None` for any above 0.
        share: Option<f64>,
    },
    /// Every adapter of the run is attached to its linear and got a gradient.
    Adapters,
    /// Every trained parameter got a gradient.
    Gradients,
    /// Samples share rows.
    Packing {
        /// Smallest share of positions that hold a token; `None` for any.
        fill: Option<f64>,
    },
    /// One kernel computed all attention.
    Attention(AttentionBackend),
}

impl Requirement {
    /// Reads a requirement.
    ///
    /// # Errors
    /// The text is none; the error says what is accepted.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("the requirements are {FORMS}");
        let share = |text: &str| {
            let share = text.trim().parse::<f64>().ok();
            share
                .filter(|share| (0.0..=1.0).contains(share))
                .ok_or_else(|| format!("`{}` is not a share from 0 to 1, such as 0.95", text.trim()))
        };
        if let Some((name, least)) = text.split_once(">=") {
            return match name.trim() {
                "fp8" => Ok(Self::Fp8 {
                    share: Some(share(least)?),
                }),
                "packing" => Ok(Self::Packing { fill: Some(share(least)?) }),
                _ => Err(wrong()),
            };
        }
        if let Some((name, kernel)) = text.split_once('=') {
            let backends = [AttentionBackend::Flash, AttentionBackend::Fused, AttentionBackend::Unfused];
            let backend = backends.into_iter().find(|backend| backend.name() == kernel.trim());
            return match (name.trim(), backend) {
                ("attention", Some(backend)) => Ok(Self::Attention(backend)),
                ("attention", None) => Err("the kernels are flash, fused and unfused".to_owned()),
                _ => Err(wrong()),
            };
        }
        match text.trim() {
            "fp8" => Ok(Self::Fp8 { share: None }),
            "adapters" => Ok(Self::Adapters),
            "gradients" => Ok(Self::Gradients),
            "packing" => Ok(Self::Packing { fill: None }),
            _ => Err(wrong()),
        }
    }
}

/// Appends an error for each text that is no requirement.
pub(crate) fn validate_requirements(path: &str, require: &[String], problems: &mut Vec<Problem>) {
    for (index, text) in require.iter().enumerate() {
        if let Err(help) = Requirement::parse(text) {
            problems.push(Problem::error(format!("{path}.require[{index}]"), format!("unknown requirement `{text}`")).help(help));
        }
    }
}
