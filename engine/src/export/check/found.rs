//! What the check found: differences of values and of logits.

use crate::checkpoint::Extent;
use neva_layout::Adapters;
use std::collections::BTreeSet;
use tch::{Kind, Tensor};

/// The canary and the run's logits, by name.
pub(crate) type CanaryTensors = Vec<(String, Tensor)>;

/// Largest differences of logits, and differences of values.
#[derive(Debug)]
pub(super) struct Found {
    /// Names of the parameters that the export has byte by byte.
    pub(super) unchanged: BTreeSet<String>,
    /// Every tensor is the run's byte by byte, so that the logits are equal without being computed.
    pub(super) identical: bool,
    /// Largest difference between the logits of the export and of the run.
    pub(super) from_run: f64,
    /// Largest difference between the logits of the export and of the base.
    pub(super) from_base: Option<f64>,
    /// Largest difference between the run's logits and the base's.
    pub(super) run_from_base: Option<f64>,
    /// Largest difference between the run's logits with whole weights and with those in 4 bits that it computed with.
    pub(super) from_four_bits: Option<f64>,
    /// Largest logit of the run.
    pub(super) largest: f64,
    /// Least precise kind of the written tensors.
    pub(super) kind: Kind,
    /// Differences of values.
    pub(super) values: Vec<String>,
    /// The canary and the run's logits, if they were computed.
    pub(super) canary: CanaryTensors,
    /// The run's adapters with the scales that the reader computes.
    pub(super) adapters: Adapters,
}

/// Largest difference of logits from the run's, relative to the largest logit, for weights that are stored in a kind.
fn bound(kind: Kind) -> f64 {
    match kind {
        Kind::BFloat16 => 3e-2,
        Kind::Half => 5e-3,
        _ => 1e-4,
    }
}

impl Found {
    /// Nothing but what the files say.
    pub(super) fn new(unchanged: BTreeSet<String>, adapters: Adapters) -> Self {
        Self {
            unchanged,
            identical: false,
            from_run: 0.0,
            from_base: None,
            run_from_base: None,
            from_four_bits: None,
            largest: 0.0,
            kind: Kind::Float,
            values: Vec::new(),
            canary: Vec::new(),
            adapters,
        }
    }

    /// Enters the kind of a written tensor.
    pub(super) fn read_kind(&mut self, kind: Kind) {
        if bound(kind) > bound(self.kind) {
            self.kind = kind;
        }
    }

    /// Enters the kind of a written tensor in a file.
    pub(super) fn read_extent(&mut self, extent: Option<&Extent>) {
        if let Some(extent) = extent {
            self.read_kind(extent.kind);
        }
    }

    /// Returns the differences that are not explained by rounding.
    pub(super) fn problems(&self) -> Vec<String> {
        let mut problems = self.values.clone();
        let bound = bound(self.kind) * self.largest.max(1.0);
        if self.from_run > bound {
            problems.push(format!(
                "its canary logits differ by {:.1e} from the run's, the bound is {bound:.1e}",
                self.from_run
            ));
        }
        // Differences that rounding hides say nothing.
        if let (Some(export), Some(run)) = (self.from_base, self.run_from_base)
            && run > 1e-5 * self.largest.max(1.0)
            && export < 0.5 * run
        {
            problems.push(format!(
                "its canary logits differ by only {export:.1e} from the base's, the run's by {run:.1e}: what was trained has no effect"
            ));
        }
        problems
    }
}

/// Returns the largest difference; NaN counts as infinite.
pub(super) fn largest(a: &Tensor, b: &Tensor) -> f64 {
    let difference = (a - b).abs().max().double_value(&[]);
    if difference.is_nan() { f64::INFINITY } else { difference }
}
