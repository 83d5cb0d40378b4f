//! `neva-run experiment`: lists and controls experiments.

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
    runtime,
};
use launch::report_end;
pub(super) use launch::{Launch, LaunchArgs, launch};

const EXAMPLES: &str = "\
Examples:
  neva-run experiment.yaml                            start one; a file with `tasks:` is an experiment
  neva-run mine.yaml --sweep finetune.optim.lr=1e-4,2e-5 --detach
  neva-run experiment list
  neva-run experiment status mine                     by name (the latest), or by id
  neva-run experiment logs mine lr=1e-4 -f
  neva-run experiment resume mine                     run the tasks that did not succeed
  neva-run experiment rerun mine                      run all of it again as a new one
  neva-run experiment compare mine/lr=1e-4 mine/lr=2e-5

Experiments are stored in NEVA_RUN_HOME, else NEMORUN_HOME, else ~/.neva_run.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ExperimentArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List experiments, the latest first
    List {
        /// List the experiments of this name only
        #[arg(value_name = "NAME")]
        name: Option<String>,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Print the state of an experiment and its tasks
    Status {
        /// Id of the experiment, or its name for the latest one
        #[arg(value_name = "EXPERIMENT")]
        experiment: String,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Print the output of tasks
    Logs(logs::LogsArgs),
    /// Stop an experiment or a task; a second request kills it
    Cancel {
        /// Id of the experiment, or its name for the latest one
        #[arg(value_name = "EXPERIMENT")]
        experiment: String,
        /// Stop this task only
        #[arg(value_name = "TASK")]
        task: Option<String>,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Remove an experiment and its folder
    Remove {
        /// Id of the experiment, or its name for the latest one
        #[arg(value_name = "EXPERIMENT")]
        experiment: String,
        /// Do not ask for confirmation
        #[arg(short, long)]
        yes: bool,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Run an experiment again from its record, and print what has changed since
    Rerun {
        /// Id of the experiment, or its name for the latest one
        #[arg(value_name = "EXPERIMENT")]
        experiment: String,
        /// Run in the background, in a launcher that survives the terminal
        #[arg(long)]
        detach: bool,
        /// Show the output of tasks, each line prefixed with the task's name
        #[arg(long, conflicts_with = "detach")]
        tail: bool,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Resume an experiment: keep tasks that succeeded, follow running ones, run the rest
    Resume {
        /// Id of the experiment, or its name for the latest one
        #[arg(value_name = "EXPERIMENT")]
        experiment: String,
        /// Run in the background, in a launcher that survives the terminal
        #[arg(long)]
        detach: bool,
        /// Show the output of tasks, each line prefixed with the task's name
        #[arg(long, conflicts_with = "detach")]
        tail: bool,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Print the differences of two experiments, and their last metrics
    Compare {
        /// An experiment, or one task as `EXPERIMENT/TASK`
        #[arg(value_name = "A")]
        a: String,
        /// The other one
        #[arg(value_name = "B")]
        b: String,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Run the launcher of a detached experiment
    #[command(hide = true)]
    Supervise {
        /// The experiment's folder
        dir: PathBuf,
    },
}

impl ExperimentArgs {
    pub(super) fn format(&self) -> Format {
        match &self.command {
            Command::List { output, .. }
            | Command::Status { output, .. }
            | Command::Cancel { output, .. }
            | Command::Remove { output, .. }
            | Command::Rerun { output, .. }
            | Command::Resume { output, .. }
            | Command::Compare { output, .. } => output.output,
            Command::Logs(args) => args.output.output,
            Command::Supervise { .. } => Format::Human,
        }
    }
}

pub(super) fn experiment(args: ExperimentArgs, report: &mut Report) -> Result<(), RunError> {
    if let Command::Supervise { dir } = &args.command {
        return experiment::supervise(dir).map(drop);
    }
    let store = Store::for_user()?;
    match args.command {
        Command::List { name, .. } => {
            let rows = store.list(name.as_deref())?;
            report.result_lines(&table::rows(&rows), &rows);
            Ok(())
        }
        Command::Status { experiment, .. } => {
            let folder = store.find(&experiment)?;
            let status = folder.status()?;
            for line in &status.broken_events {
                report.note(format_args!("warning: line {line} of events.jsonl is damaged and was ignored"));
            }
            let git = folder.git()?;
            let jobs = runtime()?.block_on(status.jobs());
            report.result(
                table::status(&status, git.as_ref(), &jobs),
                &table::status_json(&status, git.as_ref(), &jobs),
            );
            Ok(())
        }
        Command::Logs(args) => logs::logs(&args, &store, report),
        Command::Cancel { experiment, task, .. } => cancel(&store.find(&experiment)?, task.as_deref(), report),
        Command::Remove { experiment, yes, .. } => remove(&store, &store.find(&experiment)?, yes, report),
        Command::Rerun {
            experiment, detach, tail, ..
        } => rerun(&store, &store.find(&experiment)?, detach, tail, report),
        Command::Resume {
            experiment, detach, tail, ..
        } => resume(&store, &store.find(&experiment)?, detach, tail, report),
        Command::Compare { a, b, .. } => {
            let comparison = experiment::compare(&store, &a, &b)?;
            report.result_lines(&table::comparison(&comparison), &table::comparison_json(&comparison));
            Ok(())
        }
        Command::Supervise { .. } => Ok(()),
    }
}

fn cancel(folder: &ExperimentFolder, task: Option<&str>, report: &mut Report) -> Result<(), RunError> {
    folder.cancel(task)?;
    let what = task.map_or_else(|| "all tasks".to_owned(), |task| format!("the task `{task}`"));
    report.result(
        format_args!("requested the stop of {what} of {}", folder.id),
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
        confirm(&question)?;
    }
    store.remove(folder)?;
    report.result(format_args!("removed {}", folder.id), &json!({ "id": folder.id }));
    Ok(())
}

/// Asks for confirmation on the terminal.
fn confirm(question: &str) -> Result<(), RunError> {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        let question = question.to_owned();
        return Err(ExperimentError::NotConfirmed { question }.into());
    }
    // If the question cannot be printed, the answer is no.
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
    print_differences(&differences, report);
    if detach {
        return launch::detached(&folder.rerun_detached(options(store))?, report);
    }
    let done = folder.rerun(foreground_options(store, tail, report));
    report_end(done, &differences, report)
}

fn resume(store: &Store, folder: &ExperimentFolder, detach: bool, tail: bool, report: &mut Report) -> Result<(), RunError> {
    if folder.is_alive() {
        return Err(ExperimentError::Running { id: folder.id.clone() }.into());
    }
    let differences = folder.differences()?;
    print_differences(&differences, report);
    if detach {
        folder.resume_detached()?;
        return launch::detached(folder, report);
    }
    let done = folder.resume(foreground_options(store, tail, report));
    report_end(done, &differences, report)
}

/// Prints what has changed since the experiment was started.
fn print_differences(differences: &[String], report: &mut Report) {
    for difference in differences {
        report.note(format_args!("differs: {difference}"));
    }
}

fn options(store: &Store) -> ExperimentOptions {
    ExperimentOptions::default().store(store.clone()).command(environment::program())
}

/// Returns the options of an experiment that runs in the foreground.
fn foreground_options(store: &Store, tail: bool, report: &Report) -> ExperimentOptions {
    let options = options(store).on_event(report.experiment_events());
    if tail { options.on_output(report.task_output()) } else { options }
}
