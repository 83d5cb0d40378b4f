//! Experiments that `neva-run FILE` starts.

use clap::Args;
use indexmap::IndexMap;
use neva_executors::Submission;
use neva_schemas::{self as schemas, SweepMode, SweepOrder};
use serde_json::json;

use super::{super::report::Report, table};
use crate::{
    config::Node,
    environment,
    error::RunError,
    executor::Chosen,
    experiment::{
        Experiment, ExperimentError, ExperimentFolder, ExperimentOptions, ExperimentReport, ResolvedExperiment, Store, is_experiment,
        resolve_experiment, sweep_experiment,
    },
    resolve,
    sweep::Sweep,
    workspace::Workspace,
};

/// What makes an experiment of a recipe.
#[derive(Debug, Args)]
#[command(next_help_heading = "Experiments")]
pub(in crate::cli) struct LaunchArgs {
    /// Values to try, a task for each point: `finetune.optim.lr=1e-4,2e-5`; several are combined. Values are YAML,
    /// and commas in brackets are theirs
    #[arg(long = "sweep", value_name = "PATH=VALUE,...", conflicts_with = "direct")]
    sweeps: Vec<String>,
    /// How several sweeps are combined
    #[arg(long, value_name = "MODE", requires = "sweeps")]
    sweep_mode: Option<Mode>,
    /// Points of a random sweep
    #[arg(long, value_name = "N", requires = "sweeps")]
    sweep_samples: Option<u32>,
    /// Seed of a random sweep: the same one draws the same points
    #[arg(long, value_name = "SEED", requires = "sweeps", default_value_t = 0)]
    sweep_seed: u64,
    /// Leave it to a launcher that survives the terminal; `neva-run experiment` tells what became of it
    #[arg(long, conflicts_with_all = ["direct", "dry_run"])]
    detach: bool,
}

/// As [`SweepMode`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Mode {
    /// Each value of one with each of the others
    Grid,
    /// Side by side: the first of each, the second of each
    Zip,
    /// So many different points of the grid, drawn
    Random,
}

/// A launch of a file.
pub(in crate::cli) struct Launch<'a> {
    /// The file, or the name of a recipe, as it was typed.
    pub(in crate::cli) recipe: &'a str,
    /// Overrides of the run.
    pub(in crate::cli) sets: &'a [&'a str],
    pub(in crate::cli) workspace: Option<&'a Workspace>,
    pub(in crate::cli) executor: Chosen,
    pub(in crate::cli) dry_run: bool,
    /// Shows the output of tasks.
    pub(in crate::cli) tail: bool,
}

impl LaunchArgs {
    /// Whether `file` is started as an experiment.
    pub(in crate::cli) fn wanted(&self, file: &Node) -> bool {
        self.detach || !self.sweeps.is_empty() || is_experiment(file)
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

    fn experiment(&self, file: Node, launch: &Launch) -> Result<ResolvedExperiment, RunError> {
        let Launch { sets, workspace, .. } = launch;
        if is_experiment(&file) {
            if !self.sweeps.is_empty() {
                let message = "`--sweep` makes an experiment of a recipe, and this file is one: write `sweep:` at its task".to_owned();
                return Err(RunError::Argument(message));
            }
            return Ok(resolve_experiment(file, sets, *workspace)?);
        }
        let file = workspace.map_or_else(|| file.clone(), |workspace| workspace.lay_under(file.clone()));
        if self.sweeps.is_empty() {
            let resolved = resolve::resolve(file, sets)?;
            let mut experiment = schemas::Experiment {
                name: resolved.run.name.clone(),
                ..Default::default()
            };
            experiment.tasks.insert("train".to_owned(), resolved.run.into());
            let warnings = resolved.warnings;
            return Ok(ResolvedExperiment { experiment, warnings });
        }
        let resolve = |point: &[String]| {
            let sets: Vec<&str> = sets.iter().copied().chain(point.iter().map(String::as_str)).collect();
            resolve::resolve(file.clone(), &sets)
        };
        Ok(sweep_experiment(&self.sweep()?, resolve)?)
    }
}

/// Starts `file` as an experiment.
pub(in crate::cli) fn launch(args: &LaunchArgs, file: Node, launch: Launch, report: &mut Report) -> Result<(), RunError> {
    let ResolvedExperiment { experiment, warnings } = args.experiment(file, &launch)?;
    report.warnings(&warnings);
    let name = experiment.name.clone();
    let experiment = Experiment::from(experiment);
    let store = Store::of_user()?;
    let options = ExperimentOptions::default()
        .store(store.clone())
        .executor(launch.executor.config)
        .command(environment::program());
    if launch.dry_run {
        let planned = experiment.plan(options)?;
        report.result(table::plan(&planned), &plan_json(&planned));
        return Ok(());
    }
    tracing::info!(file = launch.recipe, "an experiment");
    if let Some(id) = store.interrupted(&name)? {
        report.note(format_args!(
            "note: {id} was interrupted; this starts another one, `neva-run experiment resume {id}` goes on with it"
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

/// Tells how an experiment ended; `differences` are what was said of it before.
pub(in crate::cli) fn report_end(
    done: Result<ExperimentReport, RunError>,
    differences: &[String],
    report: &mut Report,
) -> Result<(), RunError> {
    match done {
        Ok(done) => {
            let mut value = json!(done);
            value["differences"] = json!(differences);
            report.result(table::end(&done), &value);
            Ok(())
        }
        Err(RunError::Experiment(ExperimentError::Failed(failed))) => {
            report.remark(table::end(&failed));
            Err(ExperimentError::Failed(failed).into())
        }
        Err(error) => Err(error),
    }
}

/// Tells that an experiment goes on without this process.
pub(super) fn detached(folder: &ExperimentFolder, report: &mut Report) -> Result<(), RunError> {
    let text = format!(
        "started {}\n  neva-run experiment status {}\n  neva-run experiment logs {} -f",
        folder.id, folder.id, folder.id
    );
    report.result(text, &json!({ "id": folder.id, "dir": folder.dir }));
    Ok(())
}

fn plan_json(planned: &IndexMap<String, Submission>) -> serde_json::Value {
    let tasks = planned
        .iter()
        .map(|(name, submission)| json!({ "name": name, "dir": submission.dir, "processes": submission.processes }));
    json!({ "tasks": tasks.collect::<Vec<_>>() })
}
