//! `neva-run RECIPE`: starts training.

use std::{
    fmt,
    io::Write as _,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use clap::Args;
use neva_executors::train_argv;
use neva_schemas::{
    ExecutorConfig, LaunchPlan, METRICS_FILE, PLAN_FILE, PROFILE_FILE, RankEnv, Requirement, Run, RunReport, TrainerConfig, spin_count,
};
use neva_track::plot::CURVES_FILE;
use serde_json::json;

use super::{
    Globals, OutputArgs, RecipeInput,
    dry_run::DryRun,
    experiment::{self, Launch, LaunchArgs},
    export::ExportArgs,
    input::{ExecutorArgs, PreflightArgs},
    report::Report,
};
use crate::{
    config::Node,
    environment,
    error::RunError,
    executor,
    experiment::{is_experiment, recipe_paths},
    folder,
    launch::{self, RunOptions},
    pretrained, program,
};

const EXAMPLES: &str = "\
Examples:
  neva-run recipes/neva_tiny.yaml --set finetune.trainer.max_steps=20
  neva-run mine.yaml --executor retrying --set executor.retries=5  an executor of neva.yaml
  neva-run mine.yaml --executor executors/long.yaml --dry-run      an executor file
  neva-run mine.yaml --set peft_scheme=none --to-yaml full.yaml    every value, as a recipe file
  neva-run mine.yaml --sweep finetune.optim.lr=1e-4,2e-5           a task for each value
  neva-run experiment.yaml --detach                                run the tasks in the background
  neva-run mine.yaml --profile 5                                   a trace of five steps
  torchrun --no-python --nproc-per-node 8 neva-run mine.yaml --direct

Overrides:
  --set finetune.optim.lr=1e-4          set; the value is YAML: [1, 2], {a: 1}, null, \"text\"
  --set finetune.data.paths+=[b.json]   append to a list; += -= *= /= calculate with a number
  --set 'finetune.log.mlflow|={...}'    merge a map into a map
  --set '~finetune.peft'                delete";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct RunArgs {
    #[command(flatten)]
    input: RecipeInput,
    #[command(flatten)]
    executor: ExecutorArgs,
    /// Train in this process: a run of one rank, or one rank that torchrun or srun started
    #[arg(long, conflicts_with = "executor")]
    direct: bool,
    /// Retry a failed run up to N times, each time from its last checkpoint. Wrong input and bugs are not retried.
    /// Overrides the executor's `retries`
    #[arg(long, value_name = "N", conflicts_with = "direct")]
    retries: Option<u32>,
    /// End the run after its first step, with exit code 1, unless it does what LIST names: `fp8>=0.95`, `adapters`,
    /// `gradients`, `packing>=0.9`, `attention=flash`
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    require: Vec<String>,
    /// Profile the first STEPS steps of each attempt [default: 10]: write `profile.json` in the run's folder, a trace of all
    /// ranks for <https://ui.perfetto.dev>, and print where the steps went
    #[arg(long, value_name = "STEPS", num_args = 0..=1, value_parser = profile_steps)]
    profile: Option<Option<u64>>,
    /// Print what would run, without running it
    #[arg(long)]
    dry_run: bool,
    /// Show the output of rank 0 even with `--quiet`. For an experiment, show the output of its tasks, each line
    /// prefixed with the task's name
    #[arg(long, conflicts_with = "direct")]
    tail: bool,
    #[command(flatten)]
    preflight: PreflightArgs,
    #[command(flatten)]
    pub(super) output: OutputArgs,
    #[command(flatten)]
    experiment: LaunchArgs,
    #[command(flatten)]
    export: ExportArgs,
}

/// Returns the overrides that the requirements of the command line stand for: of the recipe, or of each recipe of an experiment.
fn require(list: &[String], file: &Node) -> Result<Vec<String>, RunError> {
    for text in list {
        Requirement::parse(text).map_err(|help| RunError::Argument(format!("`--require {text}`: {help}")))?;
    }
    let quoted = list
        .iter()
        .map(|text| format!("\"{}\"", text.trim()))
        .collect::<Vec<_>>()
        .join(", ");
    let set = format!("finetune.trainer.require=[{quoted}]");
    match (list, is_experiment(file)) {
        ([], _) => Ok(Vec::new()),
        (_, false) => Ok(vec![set]),
        (_, true) => match recipe_paths(file) {
            recipes if recipes.is_empty() => Err(RunError::Argument(
                "`--require` holds for fine-tunes, and the experiment has none: remove it".to_owned(),
            )),
            recipes => Ok(recipes.into_iter().map(|path| format!("{path}.{set}")).collect()),
        },
    }
}

/// Reads the number of `--profile`. A recipe after it is taken for the number.
fn profile_steps(text: &str) -> Result<u64, String> {
    let most = TrainerConfig::PROFILED_STEPS;
    text.parse()
        .map_err(|_| format!("it is not a number of steps: type `--profile {most}`, or write `--profile` after the recipe"))
}

/// Returns the overrides that `--profile` stands for: of the recipe, or of each fine-tune of an experiment.
fn profile(steps: Option<Option<u64>>, file: &Node) -> Result<Vec<String>, RunError> {
    let Some(steps) = steps else { return Ok(Vec::new()) };
    let steps = steps.unwrap_or(TrainerConfig::PROFILED_STEPS);
    let text = format!("finetune.trainer.profile_steps={steps}");
    if !is_experiment(file) {
        return Ok(vec![text]);
    }
    let recipes = recipe_paths(file);
    if recipes.is_empty() {
        let message = "`--profile` needs a fine-tune, and no task of this experiment is one: remove it";
        return Err(RunError::Argument(message.to_owned()));
    }
    Ok(recipes.into_iter().map(|path| format!("{path}.{text}")).collect())
}

pub(super) fn run(mut args: RunArgs, globals: &Globals, report: &mut Report) -> Result<(), RunError> {
    if args.direct && args.input.sets_executor() {
        let message = "`--direct` runs in this process, without an executor: remove `--set executor...`";
        return Err(RunError::Argument(message.to_owned()));
    }
    if args.direct && globals.quiet && !args.dry_run {
        let message = "`--quiet`: with `--direct` the output is the rank's own: remove one of the two, or redirect the output";
        return Err(RunError::Argument(message.to_owned()));
    }
    let file = args.input.load()?;
    let require = require(&args.require, &file)?;
    let profile = profile(args.profile, &file)?;
    args.input.sets.extend(require.into_iter().chain(profile));
    if args.experiment.is_experiment(&file) {
        return experiment(&args, file, globals, report);
    }
    args.experiment.refuse_for_single_run()?;
    let (workspace, resolved, selected) = globals.prepare(&args.input, file, &args.executor, report)?;
    if args.export.is_requested() {
        return args.export.write(&resolved, report);
    }
    if args.dry_run {
        let dry_run = DryRun::new(&resolved, (!args.direct).then_some(&selected), workspace.as_ref())?;
        let value = dry_run.json();
        report.result(dry_run, &value);
        return Ok(());
    }
    let mut preflight = args.preflight.preflight()?;
    // A run in this process does not use the executor's variables.
    let default = ExecutorConfig::default();
    let executor = if args.direct { &default } else { &selected.config };
    let mut check_files = || -> Result<_, RunError> {
        Ok(match &mut preflight {
            Some(preflight) => preflight.check(&resolved, executor)?,
            None => Vec::new(),
        })
    };
    let fetch = |report: &mut Report| pretrained::fetch(&resolved.run, executor.env_vars(), &mut |text| report.note(text));
    if args.direct {
        fetch(report)?;
        report.warnings(&check_files()?);
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
    // A missing program is reported before anything is written.
    if executor::needs_own_program(executor) {
        program::find_here()?;
    }
    let mut config = selected.config.clone();
    if let Some(retries) = args.retries {
        config.set_retries(retries);
    }
    let place = executor::executor(&config)?;
    if place.shares_files() {
        fetch(report)?;
        report.warnings(&check_files()?);
    }
    let options = RunOptions::executor(place)
        .env(selected.config.env_vars().clone())
        // Done above, with locations in the file.
        .preflight(false)
        .output(report.rank_output(args.tail))
        .retries(config.launcher_retries())
        .on_status(report.job_status())
        .on_retry(report.retries());
    let done = launch::launch(&resolved.run, options)?;
    // Rank 0 plots them, if it can.
    let curves = Some(done.run_dir.join(CURVES_FILE)).filter(|file| file.is_file());
    let profile = Some(done.run_dir.join(PROFILE_FILE)).filter(|file| file.is_file());
    let mut value = json!(done);
    value["curves"] = json!(curves);
    value["profile"] = json!(profile);
    report.outcome(
        Done {
            report: &done,
            curves: curves.as_deref(),
            profile: profile.as_deref(),
        },
        &value,
    );
    Ok(())
}

/// Starts an experiment: a file with `tasks`, a sweep, or a detached run.
fn experiment(args: &RunArgs, file: Node, globals: &Globals, report: &mut Report) -> Result<(), RunError> {
    if args.direct || args.export.is_requested() {
        let message = "`--direct` and `--to-...` work on a single recipe, and this is an experiment: remove them".to_owned();
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
        preflight: args.preflight.preflight()?,
    };
    experiment::launch(&args.experiment, file, launch, report)
}

/// Replaces this process by the rank program. Returns only on failure.
fn direct(run: &Run) -> Result<(), RunError> {
    let program = program::find_here()?;
    let mut plan = launch::lower_now(run, None)?;
    let rank = launch::own_rank(&plan)?;
    // Checked here, because nobody can report a failure after the exec.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|source| RunError::System {
        action: "start the launcher's runtime",
        source,
    })?;
    runtime.block_on(program::check(&program))?;
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
    let spin_count = spin_count(environment::is_set);
    let source = Command::new(&program).args(&argv[1..]).envs(spin_count).exec();
    Err(RunError::RankProgram {
        program,
        reason: source.to_string(),
    })
}

/// Writes the plan to a temporary file that the rank program removes. Only rank 0 creates the folder of the run.
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

/// Summary of a finished run, as text.
struct Done<'a> {
    report: &'a RunReport,
    curves: Option<&'a Path>,
    profile: Option<&'a Path>,
}

impl fmt::Display for Done<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RunReport { run_dir, checkpoint, .. } = self.report;
        write!(f, "done: {}", self.report.summary())?;
        write!(f, "\n  metrics     {}", run_dir.join(METRICS_FILE).display())?;
        if let Some(curves) = self.curves {
            write!(f, "\n  curves      {}", curves.display())?;
        }
        if let Some(profile) = self.profile {
            write!(f, "\n  profile     {}", profile.display())?;
        }
        write!(f, "\n  logs        {}", run_dir.join("logs").display())?;
        match checkpoint {
            Some(checkpoint) => write!(f, "\n  checkpoint  {}", checkpoint.display()),
            None => write!(f, "\n  checkpoint  none"),
        }
    }
}
