//! The command line. One file for each verb; only this module prints.

mod doctor;
mod generate;
mod plot;
mod progress;
mod recipes;
mod report;
mod run;
mod schema;
mod show;

use std::{panic, process::ExitCode};

use clap::{Args, Parser, Subcommand, ValueEnum};
use neva_schemas::{env, exit_class};
use tracing_subscriber::EnvFilter;

use crate::{
    environment,
    error::RunError,
    resolve::{self, Resolved},
};
use report::Report;

/// Names of the verbs, for suggestions.
pub(crate) const VERBS: &[&str] = &["run", "show", "recipes", "schema", "generate", "plot", "doctor"];

const EXAMPLES: &str = "\
Examples:
  neva-run recipes/neva_tiny.yaml                                   train on this machine
  neva-run recipes/neva_tiny.yaml --set num_gpus_per_node=2         with two ranks
  neva-run recipes/llava15_7b.yaml --set peft_scheme=none --dry-run print what would run
  neva-run show recipes/llava15_7b.yaml                             print every resolved value
  neva-run plot RUN_FOLDER OTHER_RUN_FOLDER --out curves.svg        draw two runs over each other
  torchrun --no-python --nproc-per-node 8 neva-run recipes/llava15_7b.yaml --direct

Exit codes: 0 done, 1 the job failed, 2 the input is wrong, 3 the cluster or a tool failed, 4 a bug.";

/// Fine-tunes NeVA (LLaVA-1.5) models from declarative recipes.
#[derive(Debug, Parser)]
#[command(name = "neva-run", version, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true, arg_required_else_help = true, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    run: run::RunArgs,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Train; the word `run` may be left out
    Run(run::RunArgs),
    /// Print the resolved run as YAML, which is a recipe file itself
    Show(show::ShowArgs),
    /// List the recipes that come with this program
    Recipes(recipes::RecipesArgs),
    /// Print the JSON schema of recipe files
    Schema(schema::SchemaArgs),
    /// Answer a question about pictures
    Generate(generate::GenerateArgs),
    /// Draw loss, learning rate and gradient norm of runs as an SVG picture
    Plot(plot::PlotArgs),
    /// Check that this machine has what a run needs
    Doctor(doctor::DoctorArgs),
}

/// A recipe and its overrides.
#[derive(Debug, Args)]
struct RecipeInput {
    // Optional in type only: at the top level a verb may stand in its place.
    /// Recipe file, or the name of a recipe
    #[arg(value_name = "RECIPE", required = true)]
    recipe: Option<String>,
    /// Override a value, in order: `peft_scheme=none`, `finetune.optim.lr=1e-4`, `finetune.data.paths+=[b.json]`, `~finetune.peft`
    #[arg(long = "set", value_name = "PATH=VALUE", allow_hyphen_values = true)]
    sets: Vec<String>,
}

impl RecipeInput {
    fn resolve(&self) -> Result<Resolved, RunError> {
        Ok(resolve::resolve(
            resolve::load(self.recipe.as_deref().unwrap_or_default())?,
            &self.sets,
        )?)
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

#[derive(Debug, Args)]
struct OutputArgs {
    /// Form of what is printed to standard output
    #[arg(long, value_name = "FORMAT", default_value = "human")]
    output: Format,
}

/// Runs the command line of this process and returns its exit code. A binary with own types calls this
/// from its `main`.
pub fn cli_main() -> ExitCode {
    panic::set_hook(Box::new(report::bug));
    let code = panic::catch_unwind(|| match Cli::try_parse() {
        Ok(cli) => dispatch(cli),
        Err(error) => report::usage(&error),
    });
    ExitCode::from(code.unwrap_or(exit_class::BUG))
}

fn dispatch(cli: Cli) -> u8 {
    let verb = cli.verb.unwrap_or(Verb::Run(cli.run));
    let format = match &verb {
        Verb::Run(args) => args.output.output,
        Verb::Show(args) => args.output.output,
        Verb::Recipes(args) => args.output.output,
        Verb::Plot(args) => args.output.output,
        Verb::Doctor(args) => args.output.output,
        Verb::Schema(_) | Verb::Generate(_) => Format::Human,
    };
    let mut report = Report::new(format);
    let done = start_log(report.colour()).and_then(|()| match verb {
        Verb::Run(args) => run::run(args, &mut report),
        Verb::Show(args) => show::show(&args, &mut report),
        Verb::Recipes(_) => recipes::recipes(&mut report),
        Verb::Schema(args) => schema::schema(&args, &mut report),
        Verb::Generate(args) => generate::generate(&args),
        Verb::Plot(args) => plot::plot(&args, &mut report),
        Verb::Doctor(_) => doctor::doctor(&mut report),
    });
    match done {
        Ok(()) => exit_class::DONE,
        Err(error) => report.error(&error),
    }
}

/// The launcher's own log, on standard error. Quiet unless `NEVA_LOG` asks for more.
fn start_log(colour: bool) -> Result<(), RunError> {
    let filter = environment::variable(env::NEVA_LOG).unwrap_or_else(|| "warn".to_owned());
    let filter = EnvFilter::try_new(&filter).map_err(|error| RunError::Argument(format!("{}={filter:?}: {error}", env::NEVA_LOG)))?;
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(colour);
    // A binary with own types may have set up a log of its own.
    let _ = subscriber.try_init();
    Ok(())
}
