//! The command line. One file for each verb; only this module prints.

mod bug;
mod completions;
mod diff;
mod doctor;
mod dry_run;
mod experiment;
mod export;
mod generate;
mod input;
mod plot;
mod progress;
mod recipes;
mod render;
mod report;
mod run;
mod schema;
mod show;
mod usage;
mod validate;

use std::{ffi::OsString, panic, process::ExitCode};

use clap::{ArgAction, Args, CommandFactory as _, Parser, Subcommand, ValueEnum};
use neva_schemas::{env, exit_class};
use serde_json::json;
use tracing_subscriber::EnvFilter;

use crate::{environment, error::RunError, launch, program, workspace::Workspace};
use input::RecipeInput;
use report::Report;

const USAGE: &str = "neva-run [OPTIONS] <RECIPE>\n       neva-run <VERB> [OPTIONS] ...";

const EXAMPLES: &str = "\
Examples:
  neva-run recipes/neva_tiny.yaml                                   train on this machine
  neva-run recipes/neva_tiny.yaml --set num_gpus_per_node=2         with two ranks
  neva-run recipes/llava15_7b.yaml --set peft_scheme=none --dry-run print what would run
  neva-run recipes copy llava15_7b mine.yaml                        begin a recipe file of your own
  neva-run show mine.yaml                                           print every resolved value
  neva-run diff llava15_7b mine.yaml                                what yours does otherwise
  neva-run mine.yaml --sweep finetune.optim.lr=1e-4,2e-5 --detach   two runs, left to themselves
  neva-run experiment list                                          what became of them
  neva-run plot RUN_FOLDER OTHER_RUN_FOLDER --out curves.svg        draw two runs over each other
  torchrun --no-python --nproc-per-node 8 neva-run recipes/llava15_7b.yaml --direct

`neva-run VERB --help` tells more, with examples.

Exit codes: 0 done, 1 the job failed, 2 the input is wrong, 3 the cluster or a tool failed, 4 a bug.";

/// Fine-tunes NeVA (LLaVA-1.5) models from declarative recipes.
#[derive(Debug, Parser)]
#[command(name = "neva-run", version, override_usage = USAGE, arg_required_else_help = true, after_help = EXAMPLES, subcommand_value_name = "VERB", subcommand_help_heading = "Verbs")]
struct Cli {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Train; the word `run` may be left out
    Run(run::RunArgs),
    /// Print the resolved run as YAML, which is a recipe file itself
    Show(show::ShowArgs),
    /// Print where two recipes differ once they are resolved
    Diff(diff::DiffArgs),
    /// Check recipe, experiment, executor and workspace files
    Validate(validate::ValidateArgs),
    /// Write what an executor would be given: plan and commands
    Render(render::RenderArgs),
    /// List the recipes that come with this program, or copy one
    Recipes(recipes::RecipesArgs),
    /// List, follow, end, repeat and compare experiments
    Experiment(experiment::ExperimentArgs),
    /// Draw loss, learning rate and gradient norm of runs as an SVG picture
    Plot(plot::PlotArgs),
    /// Answer a question about pictures
    Generate(generate::GenerateArgs),
    /// Check that this machine has what a run needs
    Doctor(doctor::DoctorArgs),
    /// Print the JSON schemas of the files that a user writes
    Schema(schema::SchemaArgs),
    /// Print a completion script for a shell
    Completions(completions::CompletionsArgs),
}

impl Verb {
    /// Form of what is printed.
    fn format(&self) -> Format {
        match self {
            Self::Run(args) => args.output.output,
            Self::Show(args) => args.output.output,
            Self::Diff(args) => args.output.output,
            Self::Validate(args) => args.output.output,
            Self::Render(args) => args.output.output,
            Self::Recipes(args) => args.output.output,
            Self::Experiment(args) => args.format(),
            Self::Plot(args) => args.output.output,
            Self::Doctor(args) => args.output.output,
            Self::Schema(args) => args.output.output,
            Self::Generate(_) | Self::Completions(_) => Format::Human,
        }
    }
}

/// Names of the verbs, for suggestions.
pub(crate) fn verbs() -> Vec<String> {
    Cli::command().get_subcommands().map(|verb| verb.get_name().to_owned()).collect()
}

/// What every verb takes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Everywhere")]
struct Globals {
    /// Say more of what happens: `-v` the steps, `-vv` their details, `-vvv` everything
    #[arg(short, long, global = true, action = ArgAction::Count, conflicts_with = "quiet")]
    verbose: u8,
    /// Print results and errors only
    #[arg(short, long, global = true)]
    quiet: bool,
    /// Form of the log on standard error; NEVA_LOG sets levels by target, as in `neva_run=debug,warn`
    #[arg(long, global = true, value_name = "FORMAT", default_value = "human")]
    log_format: LogFormat,
    /// Ignore the workspace file, `neva.yaml`
    #[arg(long, global = true)]
    no_workspace: bool,
}

impl Globals {
    /// The workspace of the working directory.
    fn workspace(&self) -> Result<Option<Workspace>, RunError> {
        if self.no_workspace {
            return Ok(None);
        }
        let workspace = Workspace::find(&launch::here()?)?;
        if let Some(workspace) = &workspace {
            tracing::info!(file = %workspace.file.display(), "workspace");
        }
        Ok(workspace)
    }
}

/// Form of what is printed to standard output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum Format {
    /// Text
    #[default]
    Human,
    /// One JSON document, errors too
    Json,
}

/// Form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    /// Lines
    Human,
    /// A JSON object on each line
    Json,
}

#[derive(Debug, Args)]
struct OutputArgs {
    /// Form of what is printed to standard output
    #[arg(long, value_name = "FORMAT", default_value = "human")]
    output: Format,
}

/// Runs the command line of this process and returns its exit code. A binary with own types calls this
/// from its `main`.
pub fn cli_main() -> ExitCode {
    panic::set_hook(Box::new(bug::tell));
    let typed: Vec<_> = std::env::args_os().collect();
    let code = panic::catch_unwind(|| match Cli::try_parse_from(with_verb(typed.clone())) {
        Ok(cli) => dispatch(cli),
        Err(error) => usage::tell(error, &typed),
    });
    ExitCode::from(code.unwrap_or_else(|payload| {
        if usage::wants_json(&typed) {
            let _ = report::json_line(&json!({ "error": bug::as_json(&*payload) }));
        }
        exit_class::BUG
    }))
}

/// As [`cli_main`], for a launcher of one's own: its ranks are the program `rank`, which lies beside it or in PATH, and
/// knows types of one's own. `NEVA_RANK` names another, as ever.
pub fn cli_main_with(rank: &'static str) -> ExitCode {
    program::goes_with(rank);
    cli_main()
}

/// The arguments with the verb `run` where there is none: `neva-run RECIPE ...`.
fn with_verb(mut arguments: Vec<OsString>) -> Vec<OsString> {
    if lacks_verb(&arguments) {
        arguments.insert(1, "run".into());
    }
    arguments
}

/// Whether what stands in front is neither a verb nor what stands in place of one.
fn lacks_verb(arguments: &[OsString]) -> bool {
    let known = |text: &str| matches!(text, "help" | "-h" | "--help" | "-V" | "--version") || verbs().iter().any(|verb| verb == text);
    first(arguments).is_some_and(|first| !first.to_str().is_some_and(known))
}

/// The first of the arguments that is no flag of every verb.
fn first(arguments: &[OsString]) -> Option<&OsString> {
    let everywhere = |argument: &&OsString| {
        let known = |text: &str| matches!(text, "--quiet" | "--verbose" | "--no-workspace") || text.starts_with("--log-format=");
        let short = |text: &str| text.len() > 1 && text.starts_with('-') && text[1..].chars().all(|c| matches!(c, 'v' | 'q'));
        argument.to_str().is_some_and(|text| known(text) || short(text))
    };
    arguments.iter().skip(1).find(|argument| !everywhere(argument))
}

fn dispatch(Cli { globals, verb }: Cli) -> u8 {
    let mut report = Report::new(verb.format(), globals.quiet);
    let done = start_log(&globals, report.colour()).and_then(|()| match verb {
        Verb::Run(args) => run::run(args, &globals, &mut report),
        Verb::Show(args) => show::show(&args, &globals, &mut report),
        Verb::Diff(args) => diff::diff(&args, &globals, &mut report),
        Verb::Validate(args) => validate::validate(&args, &globals, &mut report),
        Verb::Render(args) => render::render(&args, &globals, &mut report),
        Verb::Recipes(args) => recipes::recipes(&args, &mut report),
        Verb::Schema(args) => schema::schema(&args, &mut report),
        Verb::Generate(args) => generate::generate(&args),
        Verb::Experiment(args) => experiment::experiment(args, &mut report),
        Verb::Plot(args) => plot::plot(&args, &mut report),
        Verb::Doctor(_) => doctor::doctor(&globals, &mut report),
        Verb::Completions(args) => completions::completions(&args),
    });
    match done {
        Ok(()) => exit_class::DONE,
        Err(error) => report.error(&error),
    }
}

/// The launcher's own log, on standard error: warnings, unless `NEVA_LOG` or the command line asks for more.
fn start_log(globals: &Globals, colour: bool) -> Result<(), RunError> {
    let level = match (globals.quiet, globals.verbose) {
        (true, _) => "error",
        (false, 0) => "warn",
        (false, 1) => "info",
        (false, 2) => "debug",
        (false, _) => "trace",
    };
    let filter = environment::variable(env::NEVA_LOG).unwrap_or_else(|| level.to_owned());
    let filter = EnvFilter::try_new(&filter).map_err(|error| RunError::Argument(format!("{}={filter:?}: {error}", env::NEVA_LOG)))?;
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A binary with own types may have set up a log of its own.
    let _ = match globals.log_format {
        LogFormat::Human => subscriber.with_ansi(colour).try_init(),
        LogFormat::Json => subscriber.json().try_init(),
    };
    Ok(())
}
