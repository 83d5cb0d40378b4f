//! `neva-run RECIPE`: trains.

use std::{
    fmt,
    io::Write as _,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use clap::{Args, ValueEnum};
use neva_executors::{Executor, LocalExecutor, Process, Submission, Topology, train_argv};
use neva_schemas::{LaunchPlan, METRICS_FILE, PLAN_FILE, RankEnv, Run, RunReport};
use neva_track::plot::CURVES_FILE;
use serde_json::json;

use super::{OutputArgs, RecipeInput, report::Report};
use crate::{
    config::{Origin, to_node, to_yaml_string},
    environment,
    error::RunError,
    folder,
    launch::{self, RunOptions},
    program,
};

/// Ranks whose command lines a dry run prints.
const SHOWN_RANKS: usize = 8;

#[derive(Debug, Args)]
pub(super) struct RunArgs {
    #[command(flatten)]
    input: RecipeInput,
    /// Where the ranks run
    #[arg(long, value_name = "NAME", default_value = "local", conflicts_with = "direct")]
    executor: Place,
    /// Run in this very process: a run of one rank, or one of those that torchrun started
    #[arg(long)]
    direct: bool,
    /// Start a run that failed again, up to N times, each time from its last checkpoint. Wrong input and bugs
    /// are not tried again
    #[arg(long, value_name = "N", default_value_t = 0, conflicts_with = "direct")]
    retries: u32,
    /// Print what would run, and do nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    pub(super) output: OutputArgs,
}

/// Executors by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Place {
    /// Processes on this machine
    Local,
}

pub(super) fn run(args: RunArgs, report: &mut Report) -> Result<(), RunError> {
    let resolved = args.input.resolve()?;
    report.warnings(&resolved.warnings);
    if args.dry_run {
        return dry_run(&args, &resolved.run, report);
    }
    if args.direct {
        return direct(&resolved.run);
    }
    if let Some(rank) = RankEnv::read(environment::variable)
        .map_err(RunError::RankEnv)?
        .filter(|rank| rank.world_size > 1)
    {
        return Err(RunError::UnderTorchrun {
            rank: rank.rank,
            world_size: rank.world_size,
        });
    }
    let executor = executor(args.executor, &program::find_here()?);
    let options = RunOptions::executor(executor)
        .output(report.rank_output())
        .retries(args.retries)
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

fn executor(place: Place, program: &Path) -> Arc<dyn Executor> {
    match place {
        Place::Local => Arc::new(LocalExecutor::new(program)),
    }
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

fn dry_run(args: &RunArgs, run: &Run, report: &mut Report) -> Result<(), RunError> {
    let plan = launch::lower_here(run, None)?;
    // The program need not be built yet.
    let program = program::find_here().unwrap_or_else(|_| "neva-rank".into());
    let submission = if args.direct {
        let argv = train_argv(&program, &plan.run_dir.join(PLAN_FILE))?;
        let process = Process {
            argv,
            env: Default::default(),
            log: Default::default(),
        };
        Submission {
            dir: plan.run_dir.clone(),
            files: Default::default(),
            processes: vec![process],
        }
    } else {
        executor(args.executor, &program).render(&plan)?
    };
    let yaml = to_yaml_string(&to_node(run, Origin::recipe(&run.factory))?);
    let value = json!({ "plan": plan, "processes": submission.processes });
    report.result(
        DryRun {
            yaml,
            plan: &plan,
            submission: &submission,
        },
        &value,
    );
    Ok(())
}

/// What would run, for people.
struct DryRun<'a> {
    yaml: String,
    plan: &'a LaunchPlan,
    submission: &'a Submission,
}

impl fmt::Display for DryRun<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { yaml, plan, submission } = self;
        let finetune = &plan.run.finetune;
        writeln!(f, "{}\n", yaml.trim_end())?;
        writeln!(
            f,
            "# ranks                    {} ({} nodes x {})",
            plan.world_size(),
            plan.num_nodes,
            plan.ranks_per_node
        )?;
        if let Some(Topology { sizes, .. }) = Topology::of(plan) {
            writeln!(f, "# tensor parallel          {}", sizes.tp)?;
            writeln!(f, "# data parallel            {}", sizes.dp)?;
        }
        if let Some(microbatches) = finetune.num_microbatches() {
            let micro = finetune.data.micro_batch_size();
            writeln!(
                f,
                "# micro-batches per step   {microbatches} of {micro} samples on each data-parallel rank"
            )?;
        }
        let trainer = &finetune.trainer;
        let limits =
            [(trainer.max_steps, ""), (trainer.max_epochs, " epochs")].map(|(limit, unit)| limit.map(|limit| format!("{limit}{unit}")));
        writeln!(
            f,
            "# steps                    {}",
            limits.into_iter().flatten().collect::<Vec<_>>().join(", at most ")
        )?;
        writeln!(f, "# run folder               {}", plan.run_dir.display())?;
        for process in submission.processes.iter().take(SHOWN_RANKS) {
            write!(f, "\n# {process}")?;
        }
        match submission.processes.len().saturating_sub(SHOWN_RANKS) {
            0 => Ok(()),
            more => write!(f, "\n# and {more} more ranks"),
        }
    }
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
