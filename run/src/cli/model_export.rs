//! `neva-run export` and `neva-run merge`: write models for other programs. Tensors are read by the rank program.

use std::{ffi::OsString, path::PathBuf};

use clap::{Args, ValueHint, builder::PossibleValuesParser};
use neva_schemas::{ExportDtype, ExportFormat, NameLayout, Reader};

use super::{Globals, rank_command::RankCommand};
use crate::error::RunError;

const EXPORT_EXAMPLES: &str = "\
Examples:
  neva-run export RUN_FOLDER                                       to CHECKPOINT/hf, adapters merged
  neva-run export RUN_FOLDER --format hf-peft --output my-adapter  for PEFT, with the trained projector
  neva-run export RUN_FOLDER --format hf-peft --for vllm --output served
  neva-run export RUN_FOLDER --base /new/place/llava-1.5-7b-hf     if the base was moved
  neva-run export RUN_FOLDER --format neva --output stage1         to start other runs from
  neva-run export llava-folder --format llava --output original    a model's folder, for LLaVA's own code";

const MERGE_EXAMPLES: &str = "\
Examples:
  neva-run merge --adapter RUN_FOLDER --output merged
  neva-run merge --base llava-1.5-7b-hf --adapter peft-folder --output merged
  neva-run merge --base llava-1.5-7b-hf --adapter a=0.7 --adapter b=0.3 --output merged";

/// Arguments of `export`.
#[derive(Debug, Args)]
#[command(after_help = EXPORT_EXAMPLES)]
pub(super) struct ModelExportArgs {
    /// Folder of a checkpoint, of a run (its newest checkpoint), or of all runs of a name (the newest run); or a Hugging Face
    /// folder
    #[arg(value_name = "CHECKPOINT", value_hint = ValueHint::DirPath)]
    checkpoint: PathBuf,
    /// `hf`: a whole model for transformers, adapters merged; `hf-peft`: adapters for PEFT; `neva`: a checkpoint from which a
    /// run starts; `llava`: a whole model for LLaVA's own code
    #[arg(long, value_name = "FORMAT", default_value = ExportFormat::Hf.word(), value_parser = words(ExportFormat::WORDS))]
    format: String,
    /// Program that will read it; default: `transformers`, `peft` for `hf-peft`
    #[arg(long = "for", value_name = "READER", value_parser = words(Reader::WORDS))]
    reader: Option<String>,
    /// Folder of the base weights, if they were moved: checked by the hash in the checkpoint. Repeat it for a model of parts
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    base: Vec<PathBuf>,
    /// Folder to create; default: the format's name, in the checkpoint's folder
    #[arg(long, visible_alias = "out", value_name = "DIR", value_hint = ValueHint::DirPath)]
    output: Option<PathBuf>,
    /// Check an existing export again, which was written with the same options
    #[arg(long, conflicts_with = "overwrite")]
    check_only: bool,
    /// Compute the logits of the check also where every tensor has the bytes of the source
    #[arg(long)]
    logits: bool,
    #[command(flatten)]
    tensors: TensorArgs,
}

/// Arguments of `merge`.
#[derive(Debug, Args)]
#[command(after_help = MERGE_EXAMPLES)]
pub(super) struct MergeArgs {
    /// Folder of the base: a Hugging Face folder, or a checkpoint of a whole model; default: the base that the adapters name
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    base: Option<PathBuf>,
    /// A run with adapters, its checkpoint, or a folder of PEFT; with a weight as in `adapter=0.5`. Repeat it for each
    #[arg(long = "adapter", required = true, value_name = "ADAPTER[=WEIGHT]", value_hint = ValueHint::DirPath)]
    adapters: Vec<OsString>,
    /// Program that will read the model
    #[arg(long = "for", value_name = "READER", value_parser = words(Reader::WORDS))]
    reader: Option<String>,
    /// Folder to create
    #[arg(long, visible_alias = "out", value_name = "DIR", value_hint = ValueHint::DirPath)]
    output: PathBuf,
    /// Check an existing merged model again, which was written with the same options
    #[arg(long, conflicts_with = "overwrite")]
    check_only: bool,
    #[command(flatten)]
    tensors: TensorArgs,
}

/// How tensors are written.
#[derive(Debug, Args)]
struct TensorArgs {
    /// Names of tensors: `original`, as in the hub's files; `newer`, as in memory of transformers 5, the default for `hf-peft`
    #[arg(long, value_name = "NAMES", value_parser = words(NameLayout::WORDS))]
    names: Option<String>,
    /// Data type; default: that of the run's computation, of the base for `merge`
    #[arg(long, value_name = "DTYPE", value_parser = words(ExportDtype::WORDS))]
    dtype: Option<String>,
    /// Most bytes of tensors in one file, as 5GB or 500MB
    #[arg(long, value_name = "SIZE", default_value = "5GB")]
    max_shard_size: String,
    /// Replace an existing model
    #[arg(long)]
    overwrite: bool,
}

/// Replaces this process by `neva-rank export`. Returns only on failure.
pub(super) fn export(args: &ModelExportArgs, globals: &Globals) -> Result<(), RunError> {
    let mut command = RankCommand::new("export", globals)?;
    command.positional(&args.checkpoint);
    command.option("--format", Some(&args.format));
    command.option("--for", args.reader.as_ref());
    args.base.iter().for_each(|base| command.option("--base", Some(base)));
    command.option("--output", args.output.as_ref());
    command.flag("--check-only", args.check_only);
    command.flag("--logits", args.logits);
    tensors(&mut command, &args.tensors);
    command.run()
}

/// Replaces this process by `neva-rank merge`. Returns only on failure.
pub(super) fn merge(args: &MergeArgs, globals: &Globals) -> Result<(), RunError> {
    let mut command = RankCommand::new("merge", globals)?;
    command.option("--base", args.base.as_ref());
    args.adapters.iter().for_each(|adapter| command.option("--adapter", Some(adapter)));
    command.option("--for", args.reader.as_ref());
    command.option("--output", Some(&args.output));
    command.flag("--check-only", args.check_only);
    tensors(&mut command, &args.tensors);
    command.run()
}

/// Adds the options of tensors.
fn tensors(command: &mut RankCommand, args: &TensorArgs) {
    command.option("--names", args.names.as_ref());
    command.option("--dtype", args.dtype.as_ref());
    command.option("--max-shard-size", Some(&args.max_shard_size));
    command.flag("--overwrite", args.overwrite);
}

/// Returns the parser of an option that takes one of some words.
fn words(words: &'static [&'static str]) -> PossibleValuesParser {
    PossibleValuesParser::new(words)
}
