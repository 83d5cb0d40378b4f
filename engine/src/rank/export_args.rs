//! `neva-rank export` and `neva-rank merge`: arguments, and what is printed.

use super::run_folder::newest_run;
use crate::checkpoint::ModelCache;
use crate::error::{EngineError, Result};
use crate::export::{
    ExportDtype, ExportFormat, ExportRequest, Exported, MAX_SHARD_SIZE, MergeRequest, NameLayout, Reader, WeightedAdapter, check_export,
    check_export_with_canary, check_merge, export, merge,
};
use crate::model::Models;
use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use neva_schemas::Problem;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::str::FromStr;

/// Arguments of `export`.
#[derive(Debug, Args)]
pub(super) struct ExportArgs {
    /// A checkpoint of any layout; or a run's folder, for its newest checkpoint; or the folder of all runs of a name, for
    /// its newest run; or a Hugging Face folder.
    checkpoint: PathBuf,
    /// The folder to create. Default: `<checkpoint>/<format>`.
    out: Option<PathBuf>,
    /// The folder to create.
    #[arg(long, conflicts_with = "out")]
    output: Option<PathBuf>,
    /// Format.
    #[arg(long, default_value = ExportFormat::Hf.word(), value_parser = word::<ExportFormat>(ExportFormat::WORDS))]
    format: ExportFormat,
    /// Program that reads the export.
    #[arg(long = "for", value_parser = word::<Reader>(Reader::WORDS))]
    reader: Option<Reader>,
    /// Folder of base weights that were moved. Repeat it for each.
    #[arg(long)]
    base: Vec<PathBuf>,
    /// Prints the result as JSON.
    #[arg(long, hide = true)]
    json: bool,
    /// Checks an existing export instead of writing one.
    #[arg(long)]
    check_only: bool,
    /// Computes the logits of the check also where every tensor has the bytes of the source.
    #[arg(long)]
    logits: bool,
    /// Also writes the prompt of the check and the run's logits to this safetensors file.
    #[arg(long, requires = "check_only")]
    canary: Option<PathBuf>,
    #[command(flatten)]
    tensors: TensorArgs,
}

/// How tensors are written.
#[derive(Debug, Args)]
pub(super) struct TensorArgs {
    /// Names of tensors.
    #[arg(long, value_parser = word::<NameLayout>(NameLayout::WORDS))]
    pub(super) names: Option<NameLayout>,
    /// Data type of tensors.
    #[arg(long, value_parser = word::<ExportDtype>(ExportDtype::WORDS))]
    pub(super) dtype: Option<ExportDtype>,
    /// Most bytes of tensors in one file.
    #[arg(long, default_value_t = MAX_SHARD_SIZE, value_parser = size)]
    pub(super) max_shard_size: u64,
    /// Replaces an existing model.
    #[arg(long)]
    pub(super) overwrite: bool,
}

/// Exports, and returns the text for standard output.
pub(super) fn run_export(args: &ExportArgs, models: &Models, cache: &ModelCache) -> Result<String> {
    if let Some(out) = args
        .out
        .as_ref()
        .filter(|out| out.exists() && !args.tensors.overwrite && !args.check_only)
    {
        let message = format!("{} exists already", out.display());
        let problem = Problem::error("OUT", message).help("name a folder that does not exist, remove this one, or add --overwrite");
        return Err(EngineError::Run(vec![problem]));
    }
    let request = ExportRequest {
        checkpoint: newest_run(&args.checkpoint),
        out: args.out.clone().or_else(|| args.output.clone()),
        format: args.format,
        names: args.tensors.names,
        reader: args.reader,
        base: args.base.clone(),
        dtype: args.tensors.dtype,
        max_shard_size: args.tensors.max_shard_size,
        overwrite: args.tensors.overwrite,
        logits: args.logits,
    };
    if args.check_only {
        let checked = match &args.canary {
            Some(path) => check_export_with_canary(&request, path, models, cache)?,
            None => check_export(&request, models, cache)?,
        };
        return Ok(checked.to_string());
    }
    let exported = export(&request, models, cache)?;
    if args.json {
        return serde_json::to_string(&exported).map_err(|error| EngineError::Bug(format!("cannot be written as JSON: {error}")));
    }
    Ok(text("exported", &exported))
}

/// Arguments of `merge`.
#[derive(Debug, Args)]
pub(super) struct MergeArgs {
    /// Folder of the base: of transformers, or a checkpoint of a whole model. Default: the base that the adapters name.
    #[arg(long)]
    base: Option<PathBuf>,
    /// A checkpoint of a LoRA run or a folder of PEFT, with its weight as in `adapter=0.5`. Repeat it for each.
    #[arg(long = "adapter", required = true, value_parser = weighted_adapter)]
    adapters: Vec<WeightedAdapter>,
    /// The folder to create.
    #[arg(long)]
    output: PathBuf,
    /// Checks an existing merged model instead of writing one.
    #[arg(long)]
    check_only: bool,
    /// Program that reads the model.
    #[arg(long = "for", default_value = Reader::Transformers.word(), value_parser = word::<Reader>(Reader::WORDS))]
    reader: Reader,
    #[command(flatten)]
    tensors: TensorArgs,
}

/// Merges, and returns the text for standard output.
pub(super) fn run_merge(args: &MergeArgs, models: &Models, cache: &ModelCache) -> Result<String> {
    let adapter = |adapter: &WeightedAdapter| WeightedAdapter {
        path: newest_run(&adapter.path),
        ..adapter.clone()
    };
    let request = MergeRequest {
        base: args.base.clone(),
        adapters: args.adapters.iter().map(adapter).collect(),
        out: args.output.clone(),
        names: args.tensors.names.unwrap_or(NameLayout::Original),
        reader: args.reader,
        dtype: args.tensors.dtype,
        max_shard_size: args.tensors.max_shard_size,
        overwrite: args.tensors.overwrite,
    };
    if args.check_only {
        return check_merge(&request, models, cache).map(|checked| checked.to_string());
    }
    merge(&request, models, cache).map(|merged| text("merged", &merged))
}

/// Reads `PATH` or `PATH=WEIGHT`. The name of a checkpoint holds `=`, so that a path that exists has no weight.
fn weighted_adapter(text: &str) -> Result<WeightedAdapter, String> {
    let whole = |path: &str, weight: f64| WeightedAdapter {
        path: PathBuf::from(path),
        weight,
    };
    match text.rsplit_once('=') {
        Some((path, weight)) if !PathBuf::from(text).exists() => match weight.parse::<f64>() {
            Ok(weight) if weight.is_finite() => Ok(whole(path, weight)),
            Ok(weight) => Err(format!("the weight is {weight}, it must be finite")),
            Err(_) => Ok(whole(text, 1.0)),
        },
        _ => Ok(whole(text, 1.0)),
    }
}

/// Returns a result for people.
pub(super) fn text(done: &str, exported: &Exported) -> String {
    let Exported {
        dir,
        format,
        reader,
        notes,
        checked,
        ..
    } = exported;
    let mut text = format!("{done}: {format}, for {reader}\n  folder  {}", dir.display());
    let _ = write!(text, "\n  {checked}");
    for note in notes {
        let _ = write!(text, "\n  note    {note}");
    }
    text
}

/// Returns the parser of an option that takes one of some words.
fn word<T>(words: &'static [&'static str]) -> impl TypedValueParser<Value = T>
where
    T: FromStr<Err = String> + Clone + Send + Sync + 'static,
{
    PossibleValuesParser::new(words).try_map(|word| word.parse::<T>())
}

/// Reads a number of bytes: `5GB`, `500MB`, `2GiB` or `100000`.
pub(super) fn size(text: &str) -> Result<u64, String> {
    const UNITS: &[(&str, u64)] = &[
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("KB", 1_000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("", 1),
    ];
    let invalid = || format!("`{text}` is not a size: write a whole number with a unit, as 5GB, 500MB or 2GiB");
    let (number, factor) = UNITS
        .iter()
        .find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, factor)))
        .ok_or_else(invalid)?;
    let number: u64 = number.trim().parse().map_err(|_| invalid())?;
    number.checked_mul(*factor).filter(|bytes| *bytes > 0).ok_or_else(invalid)
}
