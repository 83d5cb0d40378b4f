//! What a user watches while a run goes on.

mod bar;
mod lines;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io::{self, IsTerminal as _, Write};

use indicatif::ProgressDrawTarget;

use crate::StepLine;
use bar::Bar;
use lines::Lines;

/// The output of a run's first rank: on a terminal steps become a bar, and everything else stands above it;
/// elsewhere it is passed on as it is.
///
/// A reader that went away is no reason to stop a run, so errors of writing are passed over. When it is dropped
/// the last line is printed, whether it has an end or not, and the bar is left as it is.
pub struct Console(Kind);

enum Kind {
    Terminal { bar: Bar, lines: Lines },
    Plain(Box<dyn Write + Send>),
}

impl Console {
    /// Standard output: with a bar where `terminal`, plain otherwise.
    pub fn new(terminal: bool) -> Self {
        let target = ProgressDrawTarget::stdout();
        // A terminal that cannot move its cursor (`TERM=dumb`) would show nothing at all.
        if terminal && !target.is_hidden() {
            Self::on(target)
        } else {
            Self::plain(Box::new(io::stdout()))
        }
    }

    /// Standard output: with a bar where it is a terminal.
    pub fn stdout() -> Self {
        Self::new(io::stdout().is_terminal())
    }

    fn on(target: ProgressDrawTarget) -> Self {
        Self(Kind::Terminal {
            bar: Bar::new(target),
            lines: Lines::default(),
        })
    }

    fn plain(out: Box<dyn Write + Send>) -> Self {
        Self(Kind::Plain(out))
    }

    /// Takes output of a rank, in chunks that may be cut anywhere. Lines that [`StepLine`]'s `Display` wrote are
    /// steps.
    pub fn write(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            Kind::Plain(out) => {
                let _ = out.write_all(bytes).and_then(|()| out.flush());
            }
            Kind::Terminal { bar, lines } => lines.push(bytes, |text| match text.parse() {
                Ok(step) => bar.show(&step),
                Err(_) => bar.print(text),
            }),
        }
    }

    /// Takes the bar away while `print` writes to the terminal by itself, to standard error for example.
    pub fn suspend(&mut self, print: impl FnOnce()) {
        match &mut self.0 {
            Kind::Plain(_) => print(),
            Kind::Terminal { bar, .. } => bar.suspend(print),
        }
    }

    /// Shows a step: as a bar, or as a line.
    pub fn line(&mut self, line: &StepLine) {
        match &mut self.0 {
            Kind::Plain(out) => {
                let _ = writeln!(out, "{line}").and_then(|()| out.flush());
            }
            Kind::Terminal { bar, .. } => bar.show(line),
        }
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        if let Kind::Terminal { bar, lines } = &mut self.0 {
            lines.end(|text| match text.parse() {
                Ok(step) => bar.show(&step),
                Err(_) => bar.print(text),
            });
            bar.finish();
        }
    }
}

impl fmt::Debug for Console {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Kind::Terminal { .. } => "Console(terminal)",
            Kind::Plain(_) => "Console(plain)",
        })
    }
}
