//! A step as the one line that a user watches.

use std::fmt;
use std::str::FromStr;

/// A step, printed by the first rank and read again by the launcher, which makes a bar of it on a terminal.
#[derive(Debug, Clone, PartialEq)]
pub struct StepLine {
    /// Steps that are done.
    pub done: u64,
    /// Steps of the whole run.
    pub total: u64,
    /// Mean cross entropy of the global batch.
    pub loss: f64,
    /// Learning rate.
    pub lr: f64,
    /// Global L2 norm of the gradient before clipping.
    pub grad_norm: f64,
    /// Positions trained on per second, over all ranks.
    pub tokens_per_second: f64,
    /// Most memory that the first rank has held, in GiB.
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
        write!(
            f,
            "step {done}/{total}  loss {loss:.4}  lr {lr:.3e}  grad norm {grad_norm:.3}  {tokens_per_second:.0} tokens/s  {peak_memory_gib:.2} GiB"
        )
    }
}

/// The line is not one of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a line of a step")]
pub struct NoStepLine;

impl FromStr for StepLine {
    type Err = NoStepLine;

    fn from_str(line: &str) -> Result<Self, NoStepLine> {
        let read = || -> Option<Self> {
            let rest = line.trim_end().strip_prefix("step ")?;
            let mut parts = rest.split("  ");
            let (done, total) = parts.next()?.split_once('/')?;
            let mut number =
                |prefix: &str, suffix: &str| -> Option<f64> { parts.next()?.strip_prefix(prefix)?.strip_suffix(suffix)?.parse().ok() };
            let line = Self {
                done: done.parse().ok()?,
                total: total.parse().ok()?,
                loss: number("loss ", "")?,
                lr: number("lr ", "")?,
                grad_norm: number("grad norm ", "")?,
                tokens_per_second: number("", " tokens/s")?,
                peak_memory_gib: number("", " GiB")?,
            };
            parts.next().is_none().then_some(line)
        };
        read().ok_or(NoStepLine)
    }
}
