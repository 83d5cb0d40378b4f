//! Console output of a run.

mod bar;
mod lines;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io::{self, IsTerminal as _, Write};
use std::time::Duration;

use indicatif::ProgressDrawTarget;

use crate::{Background, StepLine, is_file};
use bar::Bar;
use lines::Lines;

/// The output of a run's first rank. On a terminal steps become a bar below all other output; elsewhere the output is
/// passed through.
///
/// Write errors are ignored, because a reader that exited does not stop a run. On drop, the last line is printed, even if
/// incomplete, and the bar stays on the screen.
pub struct Console(Kind);

enum Kind {
    Terminal { bar: Bar, lines: Lines },
    Plain(Box<dyn Write + Send>),
    Background(Background),
}

/// Maximum time to write the last output.
const LAST_LINES: Duration = Duration::from_secs(10);

impl Console {
    /// Creates a console on standard output, with a bar if `terminal` is set.
    pub fn new(terminal: bool) -> Self {
        let target = ProgressDrawTarget::stdout();
        // A terminal without cursor movement (`TERM=dumb`) would show nothing at all.
        if terminal && !target.is_hidden() {
            Self::on(target)
        } else {
            Self::plain(Box::new(io::stdout()))
        }
    }

    /// Creates a console on standard output, with a bar if it is a terminal.
    pub fn stdout() -> Self {
        Self::new(io::stdout().is_terminal())
    }

    /// Creates the console of a rank, like [`stdout`](Self::stdout). Unless standard output is a terminal or a file, it never
    /// waits for a reader and drops unread output.
    pub fn for_rank() -> Self {
        let console = Self::stdout();
        match &console.0 {
            Kind::Plain(_) if !is_file(&io::stdout()) => {
                Background::new(io::stdout()).map_or(console, |background| Self(Kind::Background(background)))
            }
            _ => console,
        }
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

    /// Writes output of a rank, in chunks that may be split anywhere. Lines written by [`StepLine`]'s `Display` are steps.
    pub fn write(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            Kind::Plain(out) => {
                let _ = out.write_all(bytes).and_then(|()| out.flush());
            }
            Kind::Background(out) => {
                let _ = out.write_all(bytes);
            }
            Kind::Terminal { bar, lines } => lines.push(bytes, |text| match text.parse() {
                Ok(step) => bar.show(&step),
                Err(_) => bar.print(text),
            }),
        }
    }

    /// Hides the bar while `print` writes to the terminal itself, for example to standard error.
    pub fn suspend(&mut self, print: impl FnOnce()) {
        match &mut self.0 {
            Kind::Plain(_) | Kind::Background(_) => print(),
            Kind::Terminal { bar, .. } => bar.suspend(print),
        }
    }

    /// Shows a step: as a bar, or as a line.
    pub fn line(&mut self, line: &StepLine) {
        match &mut self.0 {
            Kind::Plain(out) => {
                let _ = writeln!(out, "{line}").and_then(|()| out.flush());
            }
            Kind::Background(out) => {
                let _ = writeln!(out, "{line}");
            }
            Kind::Terminal { bar, .. } => bar.show(line),
        }
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        match &mut self.0 {
            Kind::Terminal { bar, lines } => {
                lines.end(|text| match text.parse() {
                    Ok(step) => bar.show(&step),
                    Err(_) => bar.print(text),
                });
                bar.finish();
            }
            Kind::Background(out) => out.drain(LAST_LINES),
            Kind::Plain(_) => {}
        }
    }
}

impl fmt::Debug for Console {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Kind::Terminal { .. } => "Console(terminal)",
            Kind::Plain(_) => "Console(plain)",
            Kind::Background(_) => "Console(background)",
        })
    }
}
