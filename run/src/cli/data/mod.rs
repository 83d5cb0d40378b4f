//! `neva-run data`: looks at the data of a recipe, and prepares shards.

mod check;
mod check_samples;
mod check_text;
mod inspect;
mod pack;
mod prepare;
mod sample_text;

use clap::{Args, Subcommand};

use super::{Format, Globals, report::Report};
use crate::error::RunError;

const EXAMPLES: &str = "\
Examples:
  neva-run data check mine.yaml
  neva-run data check mine.yaml --skip-list skip.jsonl
  neva-run data inspect mine.yaml --samples 5
  neva-run data inspect mine.yaml --html samples.html
  neva-run data pack mine.yaml --set finetune.data.packed_set=packed.bin
  neva-run data prepare shards --force-overwrite

`check`, `inspect` and `pack` read LLaVA-JSON and Energon datasets. Data of a custom type is read by
its rank program alone.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct DataArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check all records: JSON, conversations, images, tokens, labels, lengths, duplicates
    Check(check::CheckArgs),
    /// Show samples as the model gets them: images, text, tokens, labels
    Inspect(inspect::InspectArgs),
    /// Pack the training samples into rows ahead of time
    Pack(pack::PackArgs),
    /// Prepare WebDataset shards as an Energon dataset: indices, splits, mapping of parts
    Prepare(prepare::PrepareArgs),
}

impl DataArgs {
    pub(super) fn format(&self) -> Format {
        match &self.command {
            Command::Check(args) => args.output.output,
            Command::Inspect(args) => args.output.output,
            Command::Pack(args) => args.output.output,
            Command::Prepare(args) => args.output.output,
        }
    }
}

pub(super) fn data(args: &DataArgs, globals: &Globals, report: &mut Report) -> Result<(), RunError> {
    match &args.command {
        Command::Check(args) => check::check(args, globals, report),
        Command::Inspect(args) => inspect::inspect(args, globals, report),
        Command::Pack(args) => pack::pack(args, globals, report),
        Command::Prepare(args) => prepare::prepare(args, globals, report),
    }
}
