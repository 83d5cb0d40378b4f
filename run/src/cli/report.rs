//! Output for the user: results on standard output, everything else on standard error.
//!
//! Output of jobs is passed through unchanged; in all other text control characters are escaped ([`print_line`]).

use std::{
    collections::BTreeMap,
    fmt::Display,
    io::{self, IsTerminal as _, Write},
};

use neva_schemas::{ExitClass, Problem};
use neva_track::Lossy;
use serde::Serialize;
use serde_json::json;

use super::{
    Format,
    json::{error_json, json_line},
    printer,
    progress::Progress,
};
use crate::{
    config, environment,
    error::RunError,
    experiment::{Change, Event},
    job::{Retry, schedule_submitted},
};

/// Callback for the output of rank 0.
type Output = Box<dyn FnMut(&[u8]) + Send>;

/// Printer of results and messages. A write error does not stop a run; [`Self::finish`] returns the error if the result
/// itself was not written.
pub(super) struct Report {
    format: Format,
    colour: bool,
    /// Prints results and errors only.
    quiet: bool,
    /// Progress bar of the current run.
    progress: Progress,
    /// The output of rank 0 is shown live.
    shows_rank_0: bool,
    /// Error of a result that was not written.
    unwritten: Option<io::Error>,
}

impl Report {
    pub(super) fn new(format: Format, quiet: bool) -> Self {
        let is_terminal = io::stderr().is_terminal() && !environment::terminal_is_dumb();
        let no_color = environment::variable("NO_COLOR");
        Self {
            format,
            colour: config::wants_colour(is_terminal, no_color.as_deref().map(str::as_ref)),
            quiet,
            progress: Progress::default(),
            shows_rank_0: false,
            unwritten: None,
        }
    }

    pub(super) fn colour(&self) -> bool {
        self.colour
    }

    /// Prints a result: `text` for people, `value` for programs.
    pub(super) fn result(&mut self, text: impl Display, value: &impl Serialize) {
        // Earlier notes appear before the result.
        printer::flush();
        let written = match self.format {
            Format::Human => print_line(io::stdout(), text),
            Format::Json => json_line(value),
        };
        self.unwritten = self.unwritten.take().or(written.err());
    }

    /// Prints a result with colours. Control characters of data must be escaped already.
    pub(super) fn coloured_result(&mut self, text: &str, value: &impl Serialize) {
        printer::flush();
        let written = match self.format {
            Format::Human => writeln!(io::stdout(), "{text}"),
            Format::Json => json_line(value),
        };
        self.unwritten = self.unwritten.take().or(written.err());
    }

    /// Returns whether results on standard output have colours.
    pub(super) fn colours_results(&self) -> bool {
        let is_terminal = io::stdout().is_terminal() && !environment::terminal_is_dumb();
        let no_color = environment::variable("NO_COLOR");
        config::wants_colour(is_terminal, no_color.as_deref().map(str::as_ref))
    }

    /// Returns whether standard error shows progress: it is a terminal that can move its cursor, and not quiet.
    pub(super) fn shows_progress(&self) -> bool {
        !self.quiet && io::stderr().is_terminal() && !environment::terminal_is_dumb()
    }

    /// Prints the result of a run. The run has succeeded even if this cannot be written.
    pub(super) fn outcome(&mut self, text: impl Display, value: &impl Serialize) {
        self.result(text, value);
        if let Some(error) = self.unwritten.take().filter(is_failure) {
            self.note(format_args!("warning: cannot write to standard output: {error}"));
        }
    }

    /// Returns the error of a result that was not written, if any.
    pub(super) fn finish(&mut self) -> Result<(), RunError> {
        self.unwritten.take().map_or(Ok(()), written)
    }

    /// Prints a result of zero or more lines.
    pub(super) fn result_lines(&mut self, lines: &[String], value: &impl Serialize) {
        if self.format == Format::Json || !lines.is_empty() {
            self.result(lines.join("\n"), value);
        }
    }

    /// Prints a note to standard error, unless quiet.
    pub(super) fn note(&mut self, text: impl Display) {
        if !self.quiet {
            printer::line(text);
        }
    }

    pub(super) fn warnings(&mut self, warnings: &[Problem]) {
        for warning in warnings {
            self.note(format_args!("warning: {warning}"));
        }
    }

    /// Returns the callback for the output of rank 0. On a terminal, its steps become a progress bar. With a JSON
    /// document on standard output, it goes to standard error. With `--quiet` it is in the logs only, unless `tail` is
    /// set.
    pub(super) fn rank_output(&mut self, tail: bool) -> Output {
        match self.format {
            _ if self.quiet && !tail => Box::new(|_| {}),
            Format::Human => {
                self.shows_rank_0 = true;
                let (progress, output) = Progress::start();
                self.progress = progress;
                Box::new(output)
            }
            Format::Json => Box::new(|bytes| {
                let _ = Lossy(io::stderr()).write_all(bytes);
            }),
        }
    }

    /// Returns the callback for the output of tasks: prints complete lines, prefixed with the task's name. With a JSON
    /// document on standard output, they go to standard error.
    pub(super) fn task_output(&self) -> impl FnMut(&str, &[u8]) + Send + 'static {
        let format = self.format;
        let mut partial = BTreeMap::<String, Vec<u8>>::new();
        move |task, bytes| {
            let line = partial.entry(task.to_owned()).or_default();
            line.extend_from_slice(bytes);
            let Some(end) = line.iter().rposition(|byte| *byte == b'\n') else {
                return;
            };
            let rest = line.split_off(end + 1);
            let whole = std::mem::replace(line, rest);
            let text = String::from_utf8_lossy(&whole);
            let task = config::visible(task);
            let text: String = text.lines().map(|line| format!("{task} | {line}\n")).collect();
            let _ = match format {
                Format::Human => io::stdout().write_all(text.as_bytes()),
                Format::Json => io::stderr().write_all(text.as_bytes()),
            };
        }
    }

    /// Returns the callback for failed attempts: prints a note for each.
    pub(super) fn retries(&self) -> impl FnMut(&Retry) + Send + 'static {
        let mut note = self.job_status();
        move |retry| note(&retry.to_string())
    }

    /// Returns the callback for sentences about a running job: prints each as a note, above its progress bar.
    pub(super) fn job_status(&self) -> impl FnMut(&str) + Send + 'static {
        let (progress, quiet) = (self.progress.share(), self.quiet);
        move |text| {
            if quiet {
                return;
            }
            let (progress, text) = (progress.share(), config::visible(text).into_owned());
            printer::print(move || {
                progress.suspend(|| {
                    let _ = writeln!(Lossy(io::stderr()), "{text}");
                });
            });
        }
    }

    /// Prints a note of several lines that belongs to an error; the JSON error contains it already.
    pub(super) fn note_for_error(&mut self, text: impl Display) {
        if self.format == Format::Human {
            self.note(text);
        }
    }

    /// Prints lines that belong to an error if `--quiet` suppressed all earlier notes about it.
    pub(super) fn quiet_note_for_error(&mut self, lines: &[String]) {
        if self.quiet && self.format == Format::Human {
            lines.iter().for_each(printer::line);
        }
    }

    /// Returns the callback for events of an experiment: prints a note for each change of a task.
    pub(super) fn experiment_events(&self) -> impl FnMut(&Event) + Send + 'static {
        let quiet = self.quiet;
        move |event| {
            let (Some(task), false) = (&event.task, quiet) else { return };
            match &event.change {
                Change::Submitted { attempt, job } => {
                    let what = schedule_submitted(job).unwrap_or_else(|| "started".to_owned());
                    match attempt {
                        1 => printer::line(format_args!("{task}: {what}")),
                        attempt => printer::line(format_args!("{task}: {what}, attempt {attempt}")),
                    }
                }
                Change::Retried {
                    attempt,
                    failure,
                    pause_ms,
                } => {
                    let seconds = pause_ms / 1000;
                    printer::line(format_args!(
                        "{task}: attempt {attempt} failed: {failure}; the next starts in {seconds} s"
                    ));
                }
                Change::Ended { state, .. } => printer::line(format_args!("{task}: {state}")),
                _ => {}
            }
        }
    }

    /// Prints the error of a subcommand and returns the exit code.
    pub(super) fn error(&mut self, error: &RunError) -> ExitClass {
        match self.format {
            Format::Human => printer::write(self.human(error).into_bytes()),
            // The document that was printed already contains the error.
            Format::Json
                if matches!(
                    error,
                    RunError::ChecksFailed { .. } | RunError::Differ { .. } | RunError::Files(_) | RunError::BrokenData { .. }
                ) => {}
            Format::Json => {
                let document = json!({ "error": error_json(error) });
                let text = self.human(error);
                printer::print(move || {
                    // Prints the text if the document cannot be written, except to a closed pipe.
                    if json_line(&document).is_err_and(|error| is_failure(&error)) {
                        let _ = Lossy(io::stderr()).write_all(text.as_bytes());
                    }
                });
            }
        }
        error.exit_code()
    }

    fn human(&self, error: &RunError) -> String {
        let RunError::Job(failure) = error else {
            return match error {
                RunError::Config(problems) | RunError::Files(problems) => config::render(problems, self.colour),
                other => config::render(other, self.colour),
            };
        };
        // The message of a rank is not wrapped: it may contain a command to copy.
        let mut text = format!("  × {error}\n");
        if let Some(advice) = error.advice() {
            text.extend(["  help: ", &advice, "\n"]);
        }
        if let Some(log) = &failure.log {
            text.extend(["  log: ", &log.display().to_string(), "\n"]);
        }
        let mut text = config::visible(&text).into_owned();
        // The log keeps its colours. Output of rank 0 may have been shown already.
        if !(self.shows_rank_0 && failure.rank == Some(0)) {
            text.extend(failure.tail.iter().map(|line| format!("  | {line}\n")));
        }
        text
    }
}

/// Writes lines with control characters escaped, so that the terminal does not interpret text from files, arguments or
/// records.
pub(super) fn print_line(mut to: impl Write, text: impl Display) -> io::Result<()> {
    writeln!(to, "{}", config::visible(&text.to_string()))
}

/// Returns true if output was lost. A closed pipe (`neva-run ... | head`) is not a failure.
pub(super) fn is_failure(error: &io::Error) -> bool {
    error.kind() != io::ErrorKind::BrokenPipe
}

/// Converts a write error of a result to the error of the subcommand; a closed pipe is none.
pub(super) fn written(error: io::Error) -> Result<(), RunError> {
    if is_failure(&error) {
        Err(RunError::Output { source: error })
    } else {
        Ok(())
    }
}
