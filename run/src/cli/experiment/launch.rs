//! Launch of experiments by `neva-run FILE`.

use std::cell::RefCell;

use clap::Args;
use indexmap::IndexMap;
use neva_executors::Submission;
use neva_schemas::{self as schemas, SweepMode, SweepOrder};
use serde_json::json;

use super::{super::report::Report, table};
use crate::{
    config::{Node, Problems},
    environment,
    error::RunError,
    executor::SelectedExecutor,
    experiment::{
        Experiment, ExperimentError, ExperimentFolder, ExperimentOptions, ExperimentReport, ResolvedExperiment, Store, is_experiment,
        resolve_experiment_with, sweep_experiment,
    },
    preflight::Preflight,
    pretrained,
    resolve::{self, Resolved},
    sweep::Sweep,
    workspace::Workspace,
};

/// Options that turn a recipe into an experiment.
#[derive(Debug, Args)]
#[command(next_help_heading = "Experiments")]
pub(in crate::cli) struct LaunchArgs {
    /// Values to try, one task for each: `finetune.optim.lr=1e-4,2e-5`. May be repeated to combine sweeps. Values are
    /// YAML; commas within brackets do not separate them
    #[arg(long = "sweep", value_name = "PATH=VALUE,...", conflicts_with = "direct")]
    sweeps: Vec<String>,
    /// How to combine several sweeps
    #[arg(long, value_name = "MODE", requires = "sweeps")]
    sweep_mode: Option<Mode>,
    /// Number of points of a random sweep
    #[arg(long, value_name = "N", requires = "sweeps")]
    sweep_samples: Option<u32>,
    /// Seed of a random sweep
    #[arg(long, value_name = "SEED", requires = "sweeps", default_value_t = 0)]
    sweep_seed: u64,
    /// Maximum number of tasks that run at the same time [default: as many as this machine's cores or GPUs allow].
    /// Overrides the experiment's `max_parallel`
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), conflicts_with = "direct")]
    max_parallel: Option<u32>,
    /// Run in the background, in a launcher that survives the terminal; see `neva-run experiment`
    #[arg(long, conflicts_with_all = ["direct", "dry_run"])]
    detach: bool,
}

/// The [`SweepMode`] as an argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Mode {
    /// Every combination of values
    Grid,
    /// The first values together, then the second values, and so on
    Zip,
    /// Random different points of the grid
    Random,
}

/// Arguments of a launch.
pub(in crate::cli) struct Launch<'a> {
    /// The file or the name of a recipe, as typed.
    pub(in crate::cli) recipe: &'a str,
    /// Overrides of the run.
    pub(in crate::cli) sets: &'a [&'a str],
    pub(in crate::cli) workspace: Option<&'a Workspace>,
    pub(in crate::cli) executor: SelectedExecutor,
    pub(in crate::cli) dry_run: bool,
    /// Show the output of tasks.
    pub(in crate::cli) tail: bool,
    /// Check of the files of runs.
    pub(in crate::cli) preflight: Option<Preflight>,
}

impl LaunchArgs {
    /// Returns true if `file` is started as an experiment.
    pub(in crate::cli) fn is_experiment(&self, file: &Node) -> bool {
        self.detach || !self.sweeps.is_empty() || is_experiment(file)
    }

    /// Refuses options of experiments for a single run.
    pub(in crate::cli) fn refuse_for_single_run(&self) -> Result<(), RunError> {
        match self.max_parallel {
            Some(_) => Err(RunError::Argument(
                "`--max-parallel` limits the tasks of an experiment, and this is a single run: remove it, or add `--sweep PATH=VALUE,...`"
                    .to_owned(),
            )),
            None => Ok(()),
        }
    }

    fn sweep(&self) -> Result<Sweep, RunError> {
        let mode = match self.sweep_mode {
            None | Some(Mode::Grid) => SweepMode::Grid,
            Some(Mode::Zip) => SweepMode::Zip,
            Some(Mode::Random) => SweepMode::Random,
        };
        let order = SweepOrder {
            mode,
            samples: self.sweep_samples,
            seed: self.sweep_seed,
        };
        Ok(Sweep::parse(&self.sweeps, order)?)
    }

    fn experiment(&self, file: Node, launch: &Launch, preflight: Option<Preflight>) -> Result<ResolvedExperiment, RunError> {
        let Launch { sets, workspace, .. } = launch;
        let preflight = preflight.map(RefCell::new);
        let check_files = |resolved: &Resolved, executor: Option<&schemas::ExecutorConfig>| match &preflight {
            Some(preflight) => {
                let executor = executor.unwrap_or(&launch.executor.config);
                // The error of a download is reported as a value of the recipe.
                if let Err(error) = pretrained::fetch(&resolved.run, executor.env_vars(), &mut |text| tracing::info!("{text}")) {
                    let problem = schemas::Problem::error("finetune", error.to_string());
                    resolve::check(&resolved.tree, vec![error.help().into_iter().fold(problem, schemas::Problem::help)])?;
                }
                preflight.borrow_mut().check(resolved, executor)
            }
            None => Ok(Vec::new()),
        };
        if is_experiment(&file) {
            if !self.sweeps.is_empty() {
                let message = "`--sweep` needs a recipe, and this file is an experiment: write `sweep:` in its task".to_owned();
                return Err(RunError::Argument(message));
            }
            return Ok(resolve_experiment_with(file, sets, *workspace, &check_files)?);
        }
        let file = workspace.map_or_else(|| file.clone(), |workspace| workspace.merge_under(file.clone()));
        if self.sweeps.is_empty() {
            let mut resolved = resolve::resolve(file, sets)?;
            resolved.warnings.extend(check_files(&resolved, None)?);
            let mut experiment = schemas::ExperimentConfig {
                name: resolved.run.name.clone(),
                ..Default::default()
            };
            experiment.tasks.insert("train".to_owned(), resolved.run.into());
            let warnings = resolved.warnings;
            return Ok(ResolvedExperiment { experiment, warnings });
        }
        let resolve = |point: &[String]| -> Result<Resolved, Problems> {
            let sets: Vec<&str> = sets.iter().copied().chain(point.iter().map(String::as_str)).collect();
            let mut resolved = resolve::resolve(file.clone(), &sets)?;
            resolved.warnings.extend(check_files(&resolved, None)?);
            Ok(resolved)
        };
        Ok(sweep_experiment(&self.sweep()?, resolve)?)
    }
}

/// Starts `file` as an experiment.
pub(in crate::cli) fn launch(args: &LaunchArgs, file: Node, mut launch: Launch, report: &mut Report) -> Result<(), RunError> {
    let has_preflight = launch.preflight.is_some();
    // A dry run checks no files: it may run on another machine.
    let preflight = launch.preflight.take().filter(|_| !launch.dry_run);
    let ResolvedExperiment { mut experiment, warnings } = args.experiment(file, &launch, preflight)?;
    experiment.max_parallel = args.max_parallel.or(experiment.max_parallel);
    report.warnings(&warnings);
    let name = experiment.name.clone();
    let experiment = Experiment::from(experiment);
    let store = Store::for_user()?;
    let options = ExperimentOptions::default()
        .store(store.clone())
        .executor(launch.executor.config)
        .preflight(has_preflight)
        .command(environment::program());
    if launch.dry_run {
        let planned = experiment.plan(options)?;
        report.result(table::plan(&planned), &plan_json(&planned));
        return Ok(());
    }
    tracing::info!(file = launch.recipe, "starting an experiment");
    if let Some(id) = store.interrupted(&name)? {
        report.note(format_args!(
            "note: {id} was interrupted; this starts a new one, `neva-run experiment resume {id}` resumes the old one"
        ));
    }
    if args.detach {
        return detached(&experiment.detach(options)?, report);
    }
    let options = options.on_event(report.experiment_events());
    let options = if launch.tail {
        options.on_output(report.task_output())
    } else {
        options
    };
    report_end(experiment.run(options), &[], report)
}

/// Prints how an experiment ended. The JSON result includes the `differences` that were printed before.
pub(in crate::cli) fn report_end(
    done: Result<ExperimentReport, RunError>,
    differences: &[String],
    report: &mut Report,
) -> Result<(), RunError> {
    match done {
        Ok(done) => {
            let mut value = json!(done);
            value["differences"] = json!(differences);
            report.outcome(table::end(&done), &value);
            Ok(())
        }
        Err(RunError::Experiment(ExperimentError::Failed(failed))) => {
            report.note_for_error(table::end(&failed));
            report.quiet_note_for_error(&table::failures(&failed));
            Err(ExperimentError::Failed(failed).into())
        }
        Err(error) => Err(error),
    }
}

/// Prints the id of a detached experiment and how to follow it.
pub(super) fn detached(folder: &ExperimentFolder, report: &mut Report) -> Result<(), RunError> {
    let text = format!(
        "started {}\n  neva-run experiment status {}\n  neva-run experiment logs {} -f",
        folder.id, folder.id, folder.id
    );
    report.result(text, &json!({ "id": folder.id, "dir": folder.dir }));
    Ok(())
}

fn plan_json(planned: &IndexMap<String, Submission>) -> serde_json::Value {
    let tasks = planned.iter().map(|(name, submission)| {
        let mut task = json!({ "name": name, "dir": submission.dir, "processes": submission.processes() });
        if let Some(script) = submission.batch_text() {
            task["batch_script"] = json!(script);
        }
        task
    });
    json!({ "tasks": tasks.collect::<Vec<_>>() })
}
