//! Bounds of a bench. A measured value beyond its bound fails the bench.

use std::process::ExitCode;

/// Numbers of checked and missed bounds.
#[derive(Debug, Default)]
pub(crate) struct Bounds {
    checked: usize,
    missed: usize,
}

impl Bounds {
    /// Checks a value, and returns the end of its row in the table.
    pub(crate) fn at_most(&mut self, measured: f64, bound: f64) -> String {
        self.checked += 1;
        // NaN is beyond every bound.
        let kept = measured <= bound;
        self.missed += usize::from(!kept);
        let missed = if kept { "" } else { "  MISSED" };
        format!("  <= {bound:.2}{missed}")
    }

    /// Prints the number of missed bounds. The exit code is a failure if there was one.
    #[expect(clippy::print_stdout, reason = "a bench prints what it measured")]
    pub(crate) fn finish(self) -> ExitCode {
        println!("{} of {} bounds missed", self.missed, self.checked);
        ExitCode::from(u8::from(self.missed > 0 || self.checked == 0))
    }
}
