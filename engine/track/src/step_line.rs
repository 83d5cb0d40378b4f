//! The progress line of a step.

use std::fmt;
use std::str::FromStr;

/// A step, printed by the first rank and parsed by the launcher, which shows a bar on a terminal.
#[derive(Debug, Clone, PartialEq)]
pub struct StepLine {
    /// Number of completed steps.
    pub done: u64,
    /// Number of steps of the whole run.
    pub total: u64,
    /// Mean cross entropy of the global batch; `None` if it has no labelled token.
    pub loss: Option<f64>,
    /// Learning rate.
    pub lr: f64,
    /// Global L2 norm of the gradient before clipping.
    pub grad_norm: Option<f64>,
    /// Positions trained on per second, over all ranks.
    pub tokens_per_second: f64,
    /// Peak memory of the first rank, in GiB.
    pub peak_memory_gib: f64,
}

impl fmt::Display for StepLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            done,
            total,
            loss,
            lr,
            grad_norm,
            tokens_per_second,
            peak_memory_gib,
        } = self;
        let (loss, grad_norm) = (Measured(*loss, 4), Measured(*grad_norm, 3));
        write!(
            f,
            "step {done}/{total}  loss {loss}  lr {lr:.3e}  grad norm {grad_norm}  {tokens_per_second:.0} tokens/s  \
             {peak_memory_gib:.2} GiB"
        )
    }
}

/// Text of a value that was not measured.
const NONE: &str = "none";

/// A value with a number of decimals, or `none`.
pub(crate) struct Measured(pub(crate) Option<f64>, pub(crate) usize);

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self(Some(value), digits) => write!(f, "{value:.digits$}"),
            Self(None, _) => f.write_str(NONE),
        }
    }
}

impl FromStr for Measured {
    type Err = std::num::ParseFloatError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(if text == NONE { None } else { Some(text.parse()?) }, 0))
    }
}

/// The line is not a step line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a line of a step")]
pub struct ParseStepLineError;

impl FromStr for StepLine {
    type Err = ParseStepLineError;

    fn from_str(line: &str) -> Result<Self, ParseStepLineError> {
        let read = || -> Option<Self> {
            let rest = line.trim_end().strip_prefix("step ")?;
            let mut parts = rest.split("  ");
            let (done, total) = parts.next()?.split_once('/')?;
            let mut measured = |prefix: &str, suffix: &str| -> Option<Option<f64>> {
                let text = parts.next()?.strip_prefix(prefix)?.strip_suffix(suffix)?;
                text.parse().ok().map(|Measured(value, _)| value)
            };
            let line = Self {
                done: done.parse().ok()?,
                total: total.parse().ok()?,
                loss: measured("loss ", "")?,
                lr: measured("lr ", "")??,
                grad_norm: measured("grad norm ", "")?,
                tokens_per_second: measured("", " tokens/s")??,
                peak_memory_gib: measured("", " GiB")??,
            };
            parts.next().is_none().then_some(line)
        };
        read().ok_or(ParseStepLineError)
    }
}
