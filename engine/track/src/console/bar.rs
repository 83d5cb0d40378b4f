//! Progress bar of a run's steps.

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::StepLine;
use crate::step_line::Measured;

/// Steps, metrics of the last step and remaining time; the bar fills the remaining width.
const TEMPLATE: &str = "step {pos}/{len} {wide_bar:.cyan/dim} {msg}  {eta} left";

/// A bar at the bottom of a terminal, shown from the first step on.
pub(super) struct Bar {
    terminal: MultiProgress,
    steps: Option<ProgressBar>,
}

impl Bar {
    pub(super) fn new(target: ProgressDrawTarget) -> Self {
        Self {
            terminal: MultiProgress::with_draw_target(target),
            steps: None,
        }
    }

    /// Replaces the shown step.
    pub(super) fn show(&mut self, line: &StepLine) {
        let bar = self.steps.get_or_insert_with(|| {
            // A resumed run does not start at 0; its speed is that of its own steps.
            let bar = ProgressBar::no_length().with_position(line.done).with_style(style());
            let bar = self.terminal.add(bar);
            bar.reset_eta();
            bar
        });
        let StepLine {
            done,
            total,
            loss,
            lr,
            tokens_per_second,
            peak_memory_gib,
            ..
        } = line;
        let loss = Measured(*loss, 4);
        bar.set_length(*total);
        bar.set_message(format!(
            "loss {loss}  lr {lr:.3e}  {tokens_per_second:.0} tokens/s  {peak_memory_gib:.2} GiB"
        ));
        bar.set_position(*done);
        bar.tick();
    }

    /// Prints a line above the bar.
    pub(super) fn print(&self, line: &str) {
        // A closed terminal does not stop a run.
        let _ = self.terminal.println(line);
    }

    /// Hides the bar while `print` runs.
    pub(super) fn suspend(&self, print: impl FnOnce()) {
        // `MultiProgress::suspend` does the same, but panics if the terminal was closed.
        let _ = self.terminal.clear();
        print();
        if let Some(bar) = &self.steps {
            bar.force_draw();
        }
    }

    /// Leaves the bar on the screen.
    pub(super) fn finish(&mut self) {
        if let Some(bar) = self.steps.take() {
            bar.abandon();
        }
    }
}

fn style() -> ProgressStyle {
    // The template is valid; a test draws it.
    let style = ProgressStyle::with_template(TEMPLATE).unwrap_or_else(|_| ProgressStyle::default_bar());
    style.progress_chars("━╸─")
}
