//! `neva-run export` and `neva-run merge`: write models for other programs. Tensors are read by the rank program.

use std::{
    ffi::OsString,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use clap::{Args, ValueHint, builder::PossibleValuesParser};
use neva_schemas::{ExportDtype, ExportFormat, NameLayout, Reader};

use crate::{error::RunError, program};

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
pub(super) fn export(args: &ModelExportArgs) -> Result<(), RunError> {
    let mut command = RankCommand::new("export")?;
    command.positional(&args.checkpoint);
    command.option("--format", Some(&args.format));
    command.option("--for", args.reader.as_ref());
    args.base.iter().for_each(|base| command.option("--base", Some(base)));
    command.option("--output", args.output.as_ref());
    if args.check_only {
        command.command.arg("--check-only");
    }
    if args.logits {
        command.command.arg("--logits");
    }
    command.tensors(&args.tensors);
    command.run()
}

/// Replaces this process by `neva-rank merge`. Returns only on failure.
pub(super) fn merge(args: &MergeArgs) -> Result<(), RunError> {
    let mut command = RankCommand::new("merge")?;
    command.option("--base", args.base.as_ref());
    args.adapters.iter().for_each(|adapter| command.option("--adapter", Some(adapter)));
    command.option("--for", args.reader.as_ref());
    command.option("--output", Some(&args.output));
    if args.check_only {
        command.command.arg("--check-only");
    }
    command.tensors(&args.tensors);
    command.run()
}

/// A command line of the rank program.
struct RankCommand {
    program: PathBuf,
    command: Command,
}

impl RankCommand {
    fn new(subcommand: &str) -> Result<Self, RunError> {
        let program = program::find_here()?;
        let mut command = Command::new(&program);
        command.arg(subcommand);
        Ok(Self { program, command })
    }

    fn positional(&mut self, path: &Path) {
        // A name may start with a dash.
        let path = if path.to_string_lossy().starts_with('-') {
            Path::new(".").join(path)
        } else {
            path.to_owned()
        };
        self.command.arg(path);
    }

    fn option(&mut self, name: &str, value: Option<impl Into<OsString>>) {
        if let Some(value) = value {
            let mut option = OsString::from(name);
            option.push("=");
            option.push(value.into());
            self.command.arg(option);
        }
    }

    fn tensors(&mut self, args: &TensorArgs) {
        self.option("--names", args.names.as_ref());
        self.option("--dtype", args.dtype.as_ref());
        self.option("--max-shard-size", Some(&args.max_shard_size));
        if args.overwrite {
            self.command.arg("--overwrite");
        }
    }

    fn run(mut self) -> Result<(), RunError> {
        let source = self.command.exec();
        Err(RunError::RankProgram {
            program: self.program,
            reason: source.to_string(),
        })
    }
}

/// Returns the parser of an option that takes one of some words.
fn words(words: &'static [&'static str]) -> PossibleValuesParser {
    PossibleValuesParser::new(words)
}
