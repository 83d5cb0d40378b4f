//! The command line. One file for each subcommand; only this module prints.

mod bug;
mod completions;
mod data;
mod diff;
mod doctor;
mod dry_run;
mod experiment;
mod export;
mod generate;
mod import;
mod input;
mod json;
mod man;
mod model_export;
mod plot;
mod printer;
mod progress;
mod rank_command;
mod recipes;
mod render;
mod report;
mod run;
mod schema;
mod show;
mod subcommand;
mod usage;
mod validate;

use std::{panic, process::ExitCode, sync::Arc};

use clap::{ArgAction, Args, ColorChoice, Parser, Subcommand, ValueEnum};
use neva_schemas::{env, exit_class};
use serde_json::json;
use tracing_subscriber::{EnvFilter, layer::SubscriberExt as _, util::SubscriberInitExt as _};

use crate::{config::Factories, environment, error::RunError, launch, program, workspace::Workspace};
use input::RecipeInput;
use report::Report;
use subcommand::with_subcommand;

const USAGE: &str = "neva-run [OPTIONS] <RECIPE>\n       neva-run <COMMAND> [OPTIONS] ...";

const EXAMPLES: &str = "\
Examples:
  neva-run recipes/neva_tiny.yaml                                   train on this machine
  neva-run recipes/neva_tiny.yaml --set num_gpus_per_node=2         train with two ranks
  neva-run recipes/llava15_7b.yaml --set peft_scheme=none --dry-run print the planned run
  neva-run import hf://llava-hf/llava-1.5-7b-hf                     add a model to the model cache
  neva-run recipes copy llava15_7b mine.yaml                        start a recipe file of your own
  neva-run show mine.yaml                                           print every resolved value
  neva-run diff llava15_7b mine.yaml                                show what your recipe changes
  neva-run data check mine.yaml                                     check all of its data, without a GPU
  neva-run mine.yaml --sweep finetune.optim.lr=1e-4,2e-5 --detach   run two tasks in the background
  neva-run experiment list                                          list experiments and states
  neva-run plot RUN_FOLDER OTHER_RUN_FOLDER --out curves.svg        plot two runs in one figure
  torchrun --no-python --nproc-per-node 8 neva-run recipes/llava15_7b.yaml --direct

Run `neva-run COMMAND --help` for details and examples.

Exit codes: 0 done, 1 the job failed, 2 the input is wrong, 3 the cluster or a tool failed, 4 a bug.";

/// Fine-tunes NeVA (LLaVA-1.5) models from declarative recipes.
#[derive(Debug, Parser)]
#[command(name = "neva-run", version, override_usage = USAGE, arg_required_else_help = true, after_help = EXAMPLES)]
#[command(color = help_colour())]
struct Cli {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Train; `run` may be omitted
    Run(run::RunArgs),
    /// Print the resolved run as YAML, in the format of a recipe file
    Show(show::ShowArgs),
    /// Print the differences of two resolved recipes
    Diff(diff::DiffArgs),
    /// Check recipe, experiment, executor and workspace files
    Validate(validate::ValidateArgs),
    /// Print or write what an executor would start: plan and commands
    Render(render::RenderArgs),
    /// Check the data of a recipe before it trains, or show its samples as the model gets them
    Data(data::DataArgs),
    /// List the built-in recipes, or copy one
    Recipes(recipes::RecipesArgs),
    /// List, follow, cancel, resume, rerun and compare experiments
    Experiment(experiment::ExperimentArgs),
    /// Plot loss, learning rate and gradient norm of runs as an SVG figure
    Plot(plot::PlotArgs),
    /// Download a model, check it and add it to the model cache
    Import(import::ImportArgs),
    /// Write a trained model in the format of another program
    Export(model_export::ModelExportArgs),
    /// Merge adapters into their base
    Merge(model_export::MergeArgs),
    /// Answer a prompt about images
    Generate(generate::GenerateArgs),
    /// Check that this machine has everything that a run needs
    Doctor(doctor::DoctorArgs),
    /// Print the JSON schemas of recipe, experiment, executor and workspace files
    Schema(schema::SchemaArgs),
    /// Print a shell completion script
    Completions(completions::CompletionsArgs),
    /// Write the man pages of all subcommands
    #[command(hide = true)]
    Man(man::ManArgs),
}

impl Command {
    /// Returns the format of standard output.
    fn format(&self) -> Format {
        match self {
            Self::Run(args) => args.output.output,
            Self::Show(args) => args.output.output,
            Self::Diff(args) => args.output.output,
            Self::Validate(args) => args.output.output,
            Self::Render(args) => args.output.output,
            Self::Data(args) => args.format(),
            Self::Recipes(args) => args.output.output,
            Self::Experiment(args) => args.format(),
            Self::Plot(args) => args.output.output,
            Self::Import(args) => args.format(),
            Self::Doctor(args) => args.output.output,
            Self::Schema(args) => args.output.output,
            Self::Export(_) | Self::Merge(_) | Self::Generate(_) | Self::Completions(_) | Self::Man(_) => Format::Human,
        }
    }
}

/// Options of every subcommand.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
struct Globals {
    /// Increase the log level: `-v` info, `-vv` debug, `-vvv` trace
    #[arg(short, long, global = true, action = ArgAction::Count, conflicts_with = "quiet")]
    verbose: u8,
    /// Print results and errors only
    #[arg(short, long, global = true)]
    quiet: bool,
    /// Format of the log on standard error; NEVA_LOG sets levels by target, as in `neva_run=debug,warn`
    #[arg(long, global = true, value_name = "FORMAT", default_value = "human")]
    log_format: LogFormat,
    /// Ignore the workspace file, `neva.yaml`
    #[arg(long, global = true)]
    no_workspace: bool,
}

impl Globals {
    /// Returns the workspace of the working directory.
    fn workspace(&self) -> Result<Option<Workspace>, RunError> {
        if self.no_workspace {
            return Ok(None);
        }
        let workspace = Workspace::find(&launch::current_directory()?)?;
        if let Some(workspace) = &workspace {
            tracing::info!(file = %workspace.file.display(), "workspace");
        }
        Ok(workspace)
    }
}

/// Format of standard output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum Format {
    /// Text
    #[default]
    Human,
    /// One JSON document, errors too
    Json,
}

/// Format of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    /// Lines
    Human,
    /// A JSON object on each line
    Json,
}

#[derive(Debug, Args)]
struct OutputArgs {
    /// Format of standard output
    #[arg(long, value_name = "FORMAT", default_value = "human")]
    output: Format,
}

/// Runs the command line of this process and returns its exit code.
pub fn cli_main() -> ExitCode {
    panic::set_hook(Box::new(bug::print_report));
    // A file that grows beyond `ulimit -f` is a write error, and must not kill this process.
    let _ = signal_hook::flag::register(signal_hook::consts::SIGXFSZ, Arc::default());
    let typed: Vec<_> = std::env::args_os().collect();
    let code = panic::catch_unwind(|| match Cli::try_parse_from(with_subcommand(typed.clone())) {
        Ok(cli) => dispatch(cli),
        Err(error) => usage::print_error(error, &typed),
    });
    let code = code.unwrap_or_else(|payload| {
        if usage::wants_json(&typed) {
            let _ = json::json_line(&json!({ "error": bug::as_json(&*payload) }));
        }
        exit_class::BUG
    });
    printer::flush();
    ExitCode::from(code)
}

/// Like [`cli_main`], for a custom launcher. Its ranks are the program `rank`, next to the launcher or in PATH, which
/// may register custom types. `NEVA_RANK` overrides it.
pub fn cli_main_with(rank: &'static str) -> ExitCode {
    program::set_rank_program(rank);
    cli_main()
}

/// Like [`cli_main_with`], with custom `factories` that recipes can call; extend [`Factories::builtin`].
pub fn cli_main_with_factories(rank: &'static str, factories: Factories) -> ExitCode {
    program::set_factories(factories);
    cli_main_with(rank)
}

/// Returns the colour choice of help texts. By default clap colours them on a dumb terminal too if `CI` is set.
fn help_colour() -> ColorChoice {
    if environment::terminal_is_dumb() {
        ColorChoice::Never
    } else {
        ColorChoice::Auto
    }
}

fn dispatch(Cli { globals, command }: Cli) -> u8 {
    let mut report = Report::new(command.format(), globals.quiet);
    let done = start_log(&globals, report.colour()).and_then(|()| match command {
        Command::Run(args) => run::run(args, &globals, &mut report),
        Command::Show(args) => show::show(&args, &globals, &mut report),
        Command::Diff(args) => diff::diff(&args, &globals, &mut report),
        Command::Validate(args) => validate::validate(&args, &globals, &mut report),
        Command::Render(args) => render::render(&args, &globals, &mut report),
        Command::Data(args) => data::data(&args, &globals, &mut report),
        Command::Recipes(args) => recipes::recipes(&args, &mut report),
        Command::Schema(args) => schema::schema(&args, &mut report),
        Command::Export(args) => model_export::export(&args, &globals),
        Command::Merge(args) => model_export::merge(&args, &globals),
        Command::Generate(args) => generate::generate(&args, &globals),
        Command::Experiment(args) => experiment::experiment(args, &mut report),
        Command::Import(args) => import::import(&args, &mut report),
        Command::Plot(args) => plot::plot(&args, &mut report),
        Command::Doctor(args) => doctor::doctor(&args, &globals, &mut report),
        Command::Completions(args) => completions::completions(&args),
        Command::Man(args) => man::man(&args),
    });
    match done.and_then(|()| report.finish()) {
        Ok(()) => exit_class::DONE,
        Err(error) => report.error(&error),
    }
}

/// Starts the launcher's log on standard error: warnings, unless `NEVA_LOG` or the command line sets another level.
fn start_log(globals: &Globals, colour: bool) -> Result<(), RunError> {
    // Our own messages report a lost connection; the Kubernetes client logs each try.
    let level = match (globals.quiet, globals.verbose) {
        (true, _) => "error,kube_client=off,kube_runtime=off",
        (false, 0) => "warn,kube_client=off,kube_runtime=off",
        (false, 1) => "info",
        (false, 2) => "debug",
        (false, _) => "trace",
    };
    let filter = environment::variable(env::NEVA_LOG).unwrap_or_else(|| level.to_owned());
    let filter = EnvFilter::try_new(&filter).map_err(|error| RunError::Argument(format!("{}={filter:?}: {error}", env::NEVA_LOG)))?;
    // The layer would panic when it reports a log that cannot be written, to the same standard error.
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(|| printer::Log)
        .log_internal_errors(false);
    let subscriber = tracing_subscriber::registry().with(filter);
    // A custom launcher may have set up its own log.
    let _ = match globals.log_format {
        LogFormat::Human => subscriber.with(layer.with_ansi(colour)).try_init(),
        LogFormat::Json => subscriber.with(layer.json()).try_init(),
    };
    Ok(())
}
