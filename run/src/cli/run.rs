//! `neva-run RECIPE`: trains.

use std::{
    fmt,
    io::Write as _,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use clap::Args;
use neva_executors::train_argv;
use neva_schemas::{LaunchPlan, METRICS_FILE, PLAN_FILE, RankEnv, Run, RunReport};
use neva_track::plot::CURVES_FILE;
use serde_json::json;

use super::{
    Globals, OutputArgs, RecipeInput,
    dry_run::DryRun,
    experiment::{self, Launch, LaunchArgs},
    export::ExportArgs,
    input::ExecutorArgs,
    report::Report,
};
use crate::{
    config::Node,
    environment,
    error::RunError,
    executor, folder,
    launch::{self, RunOptions},
    program, resolve,
};

const EXAMPLES: &str = "\
Examples:
  neva-run recipes/neva_tiny.yaml --set finetune.trainer.max_steps=20
  neva-run mine.yaml --executor patient --set executor.retries=5   an executor of neva.yaml
  neva-run mine.yaml --executor executors/long.yaml --dry-run      an executor file
  neva-run mine.yaml --set peft_scheme=none --to-yaml full.yaml    every value, as a recipe file
  neva-run mine.yaml --sweep finetune.optim.lr=1e-4,2e-5           a task for each value
  neva-run experiment.yaml --detach                                tasks in their order; go home
  torchrun --no-python --nproc-per-node 8 neva-run mine.yaml --direct

Overrides:
  --set finetune.optim.lr=1e-4          set; the value is YAML: [1, 2], {a: 1}, null, \"text\"
  --set finetune.data.paths+=[b.json]   append to a list; += -= *= /= compute with a number
  --set 'finetune.log.mlflow|={...}'    merge a map into a map
  --set '~finetune.peft'                delete";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct RunArgs {
    #[command(flatten)]
    input: RecipeInput,
    #[command(flatten)]
    executor: ExecutorArgs,
    /// Run in this very process: a run of one rank, or one of those that torchrun or srun started
    #[arg(long, conflicts_with = "executor")]
    direct: bool,
    /// Start a run that failed again, up to N times, each time from its last checkpoint. Wrong input and bugs
    /// are not tried again. In place of the executor's `retries`
    #[arg(long, value_name = "N", conflicts_with = "direct")]
    retries: Option<u32>,
    /// Print what would run, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Show the output of rank 0 even with `--quiet`; without that it is shown anyway. Of an experiment, show that of
    /// its tasks, each line behind its task's name
    #[arg(long, conflicts_with = "direct")]
    tail: bool,
    #[command(flatten)]
    pub(super) output: OutputArgs,
    #[command(flatten)]
    experiment: LaunchArgs,
    #[command(flatten)]
    export: ExportArgs,
}

pub(super) fn run(args: RunArgs, globals: &Globals, report: &mut Report) -> Result<(), RunError> {
    if args.direct && args.input.sets_executor() {
        let message = "`--direct` runs in this process, so there is no executor whose values `--set executor...` could set";
        return Err(RunError::Argument(message.to_owned()));
    }
    let file = resolve::load(&args.input.recipe)?;
    if args.experiment.wanted(&file) {
        return experiment(&args, file, globals, report);
    }
    let (workspace, resolved, chosen) = globals.prepare(&args.input, &args.executor, report)?;
    if args.export.wanted() {
        return args.export.write(&resolved, report);
    }
    if args.dry_run {
        let dry_run = DryRun::of(&resolved, (!args.direct).then_some(&chosen), workspace.as_ref())?;
        let value = dry_run.json();
        report.result(dry_run, &value);
        return Ok(());
    }
    if args.direct {
        return direct(&resolved.run);
    }
    if let Some(rank) = RankEnv::read(environment::variable)
        .map_err(RunError::RankEnv)?
        .filter(|rank| rank.world_size > 1)
    {
        return Err(RunError::StartedAsRank {
            starter: rank.starter,
            rank: rank.rank,
            world_size: rank.world_size,
        });
    }
    // A missing program is told before anything is written.
    program::find_here()?;
    let options = RunOptions::executor(executor::executor(&chosen.config))
        .env(chosen.config.env_vars().clone())
        .output(report.rank_output(args.tail))
        .retries(args.retries.unwrap_or_else(|| chosen.config.retries()))
        .on_retry(report.retries());
    let done = launch::launch(&resolved.run, options)?;
    // Rank 0 draws them; a run is done without them, too.
    let curves = Some(done.run_dir.join(CURVES_FILE)).filter(|file| file.is_file());
    let mut value = json!(done);
    value["curves"] = json!(curves);
    report.result(
        Done {
            report: &done,
            curves: curves.as_deref(),
        },
        &value,
    );
    Ok(())
}

/// Starts an experiment: a file with `tasks`, a sweep, or a run that is left to itself.
fn experiment(args: &RunArgs, file: Node, globals: &Globals, report: &mut Report) -> Result<(), RunError> {
    if args.direct || args.export.wanted() {
        let message = "an experiment has tasks: `--direct` and `--to-...` are for one recipe".to_owned();
        return Err(RunError::Argument(message));
    }
    let workspace = globals.workspace()?;
    let mut executor = args.input.executor(args.executor.executor.as_deref(), workspace.as_ref())?;
    report.warnings(&executor.warnings);
    if let Some(retries) = args.retries {
        executor.config.set_retries(retries);
    }
    let (_, sets) = args.input.split();
    let launch = Launch {
        recipe: &args.input.recipe,
        sets: &sets,
        workspace: workspace.as_ref(),
        executor,
        dry_run: args.dry_run,
        tail: args.tail,
    };
    experiment::launch(&args.experiment, file, launch, report)
}

/// Becomes the rank program: same process, same number. Returns only when that fails.
fn direct(run: &Run) -> Result<(), RunError> {
    let program = program::find_here()?;
    let mut plan = launch::lower_here(run, None)?;
    let rank = launch::own_rank(&plan)?;
    // After the exec nobody is left to explain why it did not start.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|source| RunError::System {
        action: "start the launcher's runtime",
        source,
    })?;
    runtime.block_on(program::version(&program))?;
    drop(runtime);

    let argv = if rank.rank == 0 {
        folder::create_run_folder(&mut plan)?;
        folder::write_plan(&plan)?;
        train_argv(&program, &plan.run_dir.join(PLAN_FILE))?
    } else {
        let mut argv = train_argv(&program, &temporary_plan(&plan)?)?;
        argv.push("--remove-plan".to_owned());
        argv
    };
    let source = Command::new(&program).args(&argv[1..]).exec();
    Err(RunError::RankProgram {
        program,
        reason: source.to_string(),
    })
}

/// The run's folder is rank 0's to make; the others hand their plan over in a file that the rank program
/// removes.
fn temporary_plan(plan: &LaunchPlan) -> Result<PathBuf, RunError> {
    let failed = |source| RunError::File {
        action: "write a plan in",
        path: std::env::temp_dir(),
        source,
    };
    let mut file = tempfile::Builder::new()
        .prefix("neva-plan-")
        .suffix(".json")
        .tempfile()
        .map_err(failed)?;
    file.write_all(folder::plan_text(plan)?.as_bytes()).map_err(failed)?;
    let (_, path) = file.keep().map_err(|error| failed(error.error))?;
    Ok(path)
}

/// The end of a run, for people.
struct Done<'a> {
    report: &'a RunReport,
    curves: Option<&'a Path>,
}

impl fmt::Display for Done<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RunReport {
            run_dir,
            steps,
            losses,
            checkpoint,
            ..
        } = self.report;
        write!(f, "done: {steps} steps")?;
        if let (Some(first), Some(last)) = (losses.first(), losses.last()) {
            write!(f, ", loss {first:.4} -> {last:.4}")?;
        }
        write!(f, "\n  metrics     {}", run_dir.join(METRICS_FILE).display())?;
        if let Some(curves) = self.curves {
            write!(f, "\n  curves      {}", curves.display())?;
        }
        write!(f, "\n  logs        {}", run_dir.join("logs").display())?;
        match checkpoint {
            Some(checkpoint) => write!(f, "\n  checkpoint  {}", checkpoint.display()),
            None => write!(f, "\n  checkpoint  none"),
        }
    }
}
