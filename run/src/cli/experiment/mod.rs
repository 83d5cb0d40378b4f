//! `neva-run experiment`: what became of experiments, and what is to become of them.

mod launch;
mod logs;
mod table;

use std::{
    io::{self, IsTerminal as _, Write as _},
    path::PathBuf,
};

use clap::{Args, Subcommand};
use serde_json::json;

use super::{Format, OutputArgs, report::Report};
use crate::{
    config, environment,
    error::RunError,
    experiment::{self, ExperimentError, ExperimentFolder, ExperimentOptions, Store},
};
use launch::report_end;
pub(super) use launch::{Launch, LaunchArgs, launch};

const EXAMPLES: &str = "\
Examples:
  neva-run experiment.yaml                            start one; `tasks:` makes a file an experiment
  neva-run mine.yaml --sweep finetune.optim.lr=1e-4,2e-5 --detach
  neva-run experiment list
  neva-run experiment status mine                     the latest of that name, or an id
  neva-run experiment logs mine lr=1e-4 -f
  neva-run experiment resume mine                     keep what ended well, do the rest
  neva-run experiment rerun mine                      all of it again, as a new one
  neva-run experiment compare mine/lr=1e-4 mine/lr=2e-5

Experiments are kept in NEVA_RUN_HOME, else NEMORUN_HOME, else ~/.neva_run.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ExperimentArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List the experiments, the latest first
    List {
        /// Of this name only
        #[arg(value_name = "NAME")]
        name: Option<String>,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Tell what became of an experiment and its tasks
    Status {
        /// Its id, or its name for the latest
        #[arg(value_name = "EXPERIMENT")]
        experiment: String,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Print the output of tasks
    Logs(logs::LogsArgs),
    /// Ask for the end of an experiment or a task; a second time kills
    Cancel {
        /// Its id, or its name for the latest
        #[arg(value_name = "EXPERIMENT")]
        experiment: String,
        /// Of this task only
        #[arg(value_name = "TASK")]
        task: Option<String>,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Remove an experiment and all that its folder holds
    Remove {
        /// Its id, or its name for the latest
        #[arg(value_name = "EXPERIMENT")]
        experiment: String,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Do an experiment again from the store alone, and say what is not as it was
    Rerun {
        /// Its id, or its name for the latest
        #[arg(value_name = "EXPERIMENT")]
        experiment: String,
        /// Leave it to a launcher that survives the terminal
        #[arg(long)]
        detach: bool,
        /// Show the output of its tasks, each line behind its task's name
        #[arg(long, conflicts_with = "detach")]
        tail: bool,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Go on with an experiment: keep what ended well, watch what still runs, do the rest
    Resume {
        /// Its id, or its name for the latest
        #[arg(value_name = "EXPERIMENT")]
        experiment: String,
        /// Leave it to a launcher that survives the terminal
        #[arg(long)]
        detach: bool,
        /// Show the output of its tasks, each line behind its task's name
        #[arg(long, conflicts_with = "detach")]
        tail: bool,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Print where two experiments differ, and their last metrics side by side
    Compare {
        /// An experiment, or `EXPERIMENT/TASK`
        #[arg(value_name = "A")]
        a: String,
        /// Another
        #[arg(value_name = "B")]
        b: String,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Be the launcher of a detached experiment
    #[command(hide = true)]
    Supervise {
        /// The experiment's folder
        dir: PathBuf,
    },
}

impl ExperimentArgs {
    pub(super) fn format(&self) -> Format {
        match &self.verb {
            Verb::List { output, .. }
            | Verb::Status { output, .. }
            | Verb::Cancel { output, .. }
            | Verb::Remove { output, .. }
            | Verb::Rerun { output, .. }
            | Verb::Resume { output, .. }
            | Verb::Compare { output, .. } => output.output,
            Verb::Logs(args) => args.output.output,
            Verb::Supervise { .. } => Format::Human,
        }
    }
}

pub(super) fn experiment(args: ExperimentArgs, report: &mut Report) -> Result<(), RunError> {
    if let Verb::Supervise { dir } = &args.verb {
        return experiment::supervise(dir).map(drop);
    }
    let store = Store::of_user()?;
    match args.verb {
        Verb::List { name, .. } => {
            let rows = store.list(name.as_deref())?;
            report.result_lines(&table::rows(&rows), &rows);
            Ok(())
        }
        Verb::Status { experiment, .. } => {
            let folder = store.find(&experiment)?;
            let status = folder.status()?;
            for line in &status.broken_events {
                report.note(format_args!("warning: line {line} of events.jsonl is damaged and was passed over"));
            }
            let git = folder.git()?;
            report.result(table::status(&status, git.as_ref()), &table::status_json(&status, git.as_ref()));
            Ok(())
        }
        Verb::Logs(args) => logs::logs(&args, &store, report),
        Verb::Cancel { experiment, task, .. } => cancel(&store.find(&experiment)?, task.as_deref(), report),
        Verb::Remove { experiment, yes, .. } => remove(&store, &store.find(&experiment)?, yes, report),
        Verb::Rerun {
            experiment, detach, tail, ..
        } => rerun(&store, &store.find(&experiment)?, detach, tail, report),
        Verb::Resume {
            experiment, detach, tail, ..
        } => resume(&store, &store.find(&experiment)?, detach, tail, report),
        Verb::Compare { a, b, .. } => {
            let comparison = experiment::compare(&store, &a, &b)?;
            report.result_lines(&table::comparison(&comparison), &table::comparison_json(&comparison));
            Ok(())
        }
        Verb::Supervise { .. } => Ok(()),
    }
}

fn cancel(folder: &ExperimentFolder, task: Option<&str>, report: &mut Report) -> Result<(), RunError> {
    folder.cancel(task)?;
    let what = task.map_or_else(|| "all tasks".to_owned(), |task| format!("the task `{task}`"));
    report.result(
        format_args!("asked for the end of {what} of {}", folder.id),
        &json!({ "id": folder.id, "task": task }),
    );
    Ok(())
}

fn remove(store: &Store, folder: &ExperimentFolder, yes: bool, report: &mut Report) -> Result<(), RunError> {
    if folder.is_alive() {
        return Err(ExperimentError::Running { id: folder.id.clone() }.into());
    }
    if !yes {
        let question = format!("removing {} and its folder", folder.id);
        agreed(&question)?;
    }
    store.remove(folder)?;
    report.result(format_args!("removed {}", folder.id), &json!({ "id": folder.id }));
    Ok(())
}

/// Asks on the terminal.
fn agreed(question: &str) -> Result<(), RunError> {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        let question = question.to_owned();
        return Err(ExperimentError::Unasked { question }.into());
    }
    // What cannot be asked is not agreed to.
    let question = config::visible(question);
    let _ = write!(io::stderr(), "{question}: are you sure? [y/N] ").and_then(|()| io::stderr().flush());
    let mut answer = String::new();
    let read = stdin.read_line(&mut answer);
    match answer.trim() {
        "y" | "Y" | "yes" if read.is_ok() => Ok(()),
        _ => Err(ExperimentError::Declined.into()),
    }
}

fn rerun(store: &Store, folder: &ExperimentFolder, detach: bool, tail: bool, report: &mut Report) -> Result<(), RunError> {
    let differences = folder.differences()?;
    tell(&differences, report);
    if detach {
        return launch::detached(&folder.rerun_detached(options(store))?, report);
    }
    let done = folder.rerun(watched(store, tail, report));
    report_end(done, &differences, report)
}

fn resume(store: &Store, folder: &ExperimentFolder, detach: bool, tail: bool, report: &mut Report) -> Result<(), RunError> {
    if folder.is_alive() {
        return Err(ExperimentError::Running { id: folder.id.clone() }.into());
    }
    let differences = folder.differences()?;
    tell(&differences, report);
    if detach {
        folder.resume_detached()?;
        return launch::detached(folder, report);
    }
    let done = folder.resume(watched(store, tail, report));
    report_end(done, &differences, report)
}

/// What is not as it was when the experiment was started.
fn tell(differences: &[String], report: &mut Report) {
    for difference in differences {
        report.note(format_args!("differs: {difference}"));
    }
}

fn options(store: &Store) -> ExperimentOptions {
    ExperimentOptions::default().store(store.clone()).command(environment::program())
}

/// Options of an experiment that this process waits for.
fn watched(store: &Store, tail: bool, report: &Report) -> ExperimentOptions {
    let options = options(store).on_event(report.experiment_events());
    if tail { options.on_output(report.task_output()) } else { options }
}
