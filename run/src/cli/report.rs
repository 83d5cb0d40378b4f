//! What the user sees: results on standard output, everything else on standard error.

use std::{
    backtrace::Backtrace,
    collections::BTreeMap,
    fmt::Display,
    io::{self, IsTerminal as _, Write as _},
    panic::PanicHookInfo,
};

use neva_schemas::{ExitClass, Problem, exit_class};
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
        let _ = match self.format {
            Format::Human => writeln!(io::stdout(), "{text}"),
            Format::Json => json_line(value),
        };
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
            let _ = writeln!(io::stderr(), "{text}");
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
            progress.suspend(|| {
                let _ = writeln!(io::stderr(), "{retry}");
            });
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
            let _ = match &event.change {
                Change::Submitted { attempt: 1, .. } => writeln!(io::stderr(), "{task}: started"),
                Change::Submitted { attempt, .. } => writeln!(io::stderr(), "{task}: started, attempt {attempt}"),
                Change::Retried {
                    attempt,
                    failure,
                    pause_ms,
                } => {
                    writeln!(
                        io::stderr(),
                        "{task}: attempt {attempt} failed: {failure}; the next starts in {} s",
                        pause_ms / 1000
                    )
                }
                Change::Ended { state, .. } => writeln!(io::stderr(), "{task}: {state}"),
                _ => Ok(()),
            };
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
        // What a rank said is left as it is: it may hold a command to copy, which wrapping would break.
        let mut text = format!("  × {error}\n");
        if let Some(advice) = error.advice() {
            text.push_str("  help: ");
            text.push_str(&advice);
            text.push('\n');
        }
        if let Some(log) = &failure.log {
            text.push_str("  log: ");
            text.push_str(&log.display().to_string());
            text.push('\n');
            text.extend(failure.tail.iter().map(|line| format!("  | {line}\n")));
        }
        text
    }
}

/// Prints what clap says of the arguments, help and version among it, and returns the exit code.
pub(super) fn usage(error: &clap::Error, json: bool) -> ExitClass {
    if !error.use_stderr() {
        let _ = error.print();
        return exit_class::DONE;
    }
    if json {
        let text = error.render().to_string();
        let message = text.trim().trim_start_matches("error: ");
        let error = json!({ "class": exit_class::INPUT, "message": message, "help": null, "problems": [], "failure": null });
        let _ = json_line(&json!({ "error": error }));
    } else {
        let _ = error.print();
    }
    exit_class::INPUT
}

/// The panic hook: one line, and where it happened. Panics are bugs of ours.
pub(super) fn bug(panic: &PanicHookInfo<'_>) {
    let payload = panic.payload();
    let message = payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    let message = message.unwrap_or("no message");
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    let _ = writeln!(io::stderr(), "neva-run: this is a bug, please report it: {message} ({place})");
    let backtrace = Backtrace::capture();
    if backtrace.status() == std::backtrace::BacktraceStatus::Captured {
        let _ = writeln!(io::stderr(), "{backtrace}");
    }
}

fn json_line(value: &impl Serialize) -> io::Result<()> {
    let text = serde_json::to_string(value).map_err(io::Error::from)?;
    writeln!(io::stdout(), "{text}")
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
