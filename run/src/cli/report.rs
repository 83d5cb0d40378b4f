//! What the user sees: results on standard output, everything else on standard error.
//!
//! What jobs print is passed on as it is; all else in characters that a terminal shows ([`say`]).

use std::{
    collections::BTreeMap,
    fmt::Display,
    io::{self, IsTerminal as _, Write},
};

use neva_schemas::{ExitClass, Problem};
use serde::Serialize;
use serde_json::json;

use super::{Format, progress::Progress};
use crate::{
    config::{self, ConfigError},
    environment,
    error::RunError,
    experiment::{Change, Event, ExperimentError},
    job::Retry,
};

/// What takes the output of rank 0.
type Output = Box<dyn FnMut(&[u8]) + Send>;

/// Prints. A reader that went away (`neva-run ... | head`) is no reason to stop a run, so errors of
/// writing are passed over.
pub(super) struct Report {
    format: Format,
    colour: bool,
    /// Results and errors only.
    quiet: bool,
    /// Of the run that goes on.
    progress: Progress,
}

impl Report {
    pub(super) fn new(format: Format, quiet: bool) -> Self {
        let no_color = environment::variable("NO_COLOR");
        Self {
            format,
            colour: config::wants_colour(io::stderr().is_terminal(), no_color.as_deref().map(str::as_ref)),
            quiet,
            progress: Progress::default(),
        }
    }

    pub(super) fn colour(&self) -> bool {
        self.colour
    }

    /// A result: `text` for people, `value` for programs.
    pub(super) fn result(&mut self, text: impl Display, value: &impl Serialize) {
        match self.format {
            Format::Human => say(io::stdout(), text),
            Format::Json => {
                let _ = json_line(value);
            }
        }
    }

    /// A result in lines, of which there may be none.
    pub(super) fn result_lines(&mut self, lines: &[String], value: &impl Serialize) {
        if self.format == Format::Json || !lines.is_empty() {
            self.result(lines.join("\n"), value);
        }
    }

    /// A remark that is not the result.
    pub(super) fn note(&mut self, text: impl Display) {
        if !self.quiet {
            say(io::stderr(), text);
        }
    }

    pub(super) fn warnings(&mut self, warnings: &[Problem]) {
        for warning in warnings {
            self.note(format_args!("warning: {warning}"));
        }
    }

    /// Takes the output of rank 0 as it comes; on a terminal its steps become a bar. Where standard output
    /// belongs to one JSON document, it goes to standard error. With `--quiet` it is in the logs only, unless
    /// `tail` asks for it.
    pub(super) fn rank_output(&mut self, tail: bool) -> Output {
        match self.format {
            _ if self.quiet && !tail => Box::new(|_| {}),
            Format::Human => {
                let (progress, output) = Progress::start();
                self.progress = progress;
                Box::new(output)
            }
            Format::Json => Box::new(|bytes| {
                let _ = io::stderr().write_all(bytes);
            }),
        }
    }

    /// Takes the output of the tasks of an experiment: whole lines, each behind its task's name. Where standard output
    /// belongs to one JSON document, they go to standard error.
    pub(super) fn task_output(&self) -> impl FnMut(&str, &[u8]) + Send + 'static {
        let format = self.format;
        let mut begun = BTreeMap::<String, Vec<u8>>::new();
        move |task, bytes| {
            let line = begun.entry(task.to_owned()).or_default();
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

    /// Takes attempts that failed, as remarks.
    pub(super) fn retries(&self) -> impl FnMut(&Retry) + Send + 'static {
        let (progress, quiet) = (self.progress.share(), self.quiet);
        move |retry| {
            if quiet {
                return;
            }
            progress.suspend(|| say(io::stderr(), retry));
        }
    }

    /// A remark of several lines that goes with an error; programs read it in the error.
    pub(super) fn remark(&mut self, text: impl Display) {
        if self.format == Format::Human {
            self.note(text);
        }
    }

    /// Takes what happens to the tasks of an experiment, as remarks.
    pub(super) fn experiment_events(&self) -> impl FnMut(&Event) + Send + 'static {
        let quiet = self.quiet;
        move |event| {
            let (Some(task), false) = (&event.task, quiet) else { return };
            match &event.change {
                Change::Submitted { attempt: 1, .. } => say(io::stderr(), format_args!("{task}: started")),
                Change::Submitted { attempt, .. } => say(io::stderr(), format_args!("{task}: started, attempt {attempt}")),
                Change::Retried {
                    attempt,
                    failure,
                    pause_ms,
                } => {
                    let seconds = pause_ms / 1000;
                    say(
                        io::stderr(),
                        format_args!("{task}: attempt {attempt} failed: {failure}; the next starts in {seconds} s"),
                    );
                }
                Change::Ended { state, .. } => say(io::stderr(), format_args!("{task}: {state}")),
                _ => {}
            }
        }
    }

    /// Prints why the verb failed and returns the exit code.
    pub(super) fn error(&mut self, error: &RunError) -> ExitClass {
        let _ = match self.format {
            Format::Human => write!(io::stderr(), "{}", self.human(error)),
            // What was printed already is the document, and tells of this.
            Format::Json if matches!(error, RunError::Unfit { .. } | RunError::Differ { .. } | RunError::Files(_)) => Ok(()),
            Format::Json => json_line(&json!({ "error": as_json(error) })),
        };
        error.class()
    }

    fn human(&self, error: &RunError) -> String {
        let RunError::Job(failure) = error else {
            return match error {
                RunError::Config(problems) | RunError::Files(problems) => config::render(problems, self.colour),
                other => config::render(other, self.colour),
            };
        };
        // What a rank said is not wrapped: it may hold a command to copy, which that would break.
        let mut text = format!("  × {error}\n");
        if let Some(advice) = error.advice() {
            text.extend(["  help: ", &advice, "\n"]);
        }
        if let Some(log) = &failure.log {
            text.extend(["  log: ", &log.display().to_string(), "\n"]);
        }
        let mut text = config::visible(&text).into_owned();
        // The colours of a log belong to it.
        text.extend(failure.tail.iter().map(|line| format!("  | {line}\n")));
        text
    }
}

/// Writes lines, each character of which is one to see: what a file, an argument or a record holds is quoted, and not
/// obeyed by the terminal.
pub(super) fn say(mut to: impl Write, text: impl Display) {
    let _ = writeln!(to, "{}", config::visible(&text.to_string()));
}

/// Writes one JSON document. Its own escapes are those of [`config::visible`], so the values are exact.
pub(super) fn json_line(value: &impl Serialize) -> io::Result<()> {
    let text = serde_json::to_string(value).map_err(io::Error::from)?;
    writeln!(io::stdout(), "{}", config::visible(&text))
}

/// A problem of a configuration, for programs.
pub(super) fn problem_json(problem: &ConfigError) -> serde_json::Value {
    let at = problem.origin.as_ref().map(ToString::to_string);
    json!({
        "kind": problem.problem.kind(),
        "path": problem.path.to_string(),
        "at": at,
        "message": problem.problem.to_string(),
        "help": problem.problem.help(),
    })
}

fn as_json(error: &RunError) -> serde_json::Value {
    let problems = match error {
        RunError::Config(problems) => problems.errors(),
        _ => &[],
    };
    let problems: Vec<_> = problems.iter().map(problem_json).collect();
    let failure = match error {
        RunError::Job(failure) => json!(failure),
        RunError::Rank(failure) => json!(failure),
        RunError::Experiment(ExperimentError::Failed(report)) => json!(report),
        _ => serde_json::Value::Null,
    };
    json!({ "class": error.class(), "message": error.to_string(), "help": error.advice(), "problems": problems, "failure": failure })
}
