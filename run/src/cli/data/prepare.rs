//! `neva-run data prepare FOLDER`: prepares WebDataset shards as an Energon dataset.

use std::{collections::BTreeMap, path::PathBuf};

use clap::{Args, ValueHint};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use neva_data::{PrepareOptions, PrepareProgress, Prepared, SplitRule};
use neva_schemas::SampleLoader;
use serde_json::Value;
use tokio::sync::watch;

use crate::{
    cli::{Globals, OutputArgs, report::Report},
    error::RunError,
    job::{StopRequests, forward_signals, is_stop_requested},
};

const EXAMPLES: &str = r#"Examples:
  neva-run data prepare shards --sample-type VQASample \
    --field-map '{"image": "jpg", "context": "json[question]", "answers": "json[answers]"}'
  neva-run data prepare shards --sample-type CaptioningSample --field-map '{"image": "jpg", "caption": "txt"}' \
    --split-parts 'train:train/.*' --split-parts 'val:val/.*'
  neva-run data prepare shards --force-overwrite --split-ratio 9,1,0

The metadata are those of `energon prepare`; megatron-energon 7 reads them. A preparation that was
interrupted is resumed by the same command."#;

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct PrepareArgs {
    /// Folder with the shards (`.tar`), also in folders within it
    #[arg(value_name = "FOLDER", value_hint = ValueHint::DirPath)]
    folder: PathBuf,
    /// Energon's type of the samples: `VQASample`, `CaptioningSample`, `TextSample` and others
    #[arg(long, value_name = "TYPE", requires = "field_map")]
    sample_type: Option<String>,
    /// JSON object with the expression of each field of the type
    #[arg(long, value_name = "JSON", requires = "sample_type", value_parser = field_map)]
    field_map: Option<FieldMap>,
    /// Shares of train, val and test; shards are assigned whole
    #[arg(long, value_name = "TRAIN,VAL,TEST", default_value = "8,1,1", value_parser = ratio, conflicts_with = "split_parts")]
    split_ratio: Ratio,
    /// Split, and the regular expression of its shards
    #[arg(long, value_name = "SPLIT:PATTERN", value_parser = pattern)]
    split_parts: Vec<(String, String)>,
    /// Shard, or `SHARD/KEY` of a sample, that training leaves out
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    exclude: Vec<String>,
    /// Write the indices only, of a dataset that has the other metadata
    #[arg(long, conflicts_with_all = ["sample_type", "split_parts", "exclude"])]
    tar_index_only: bool,
    /// Replace the metadata of a prepared dataset; `dataset.yaml` stays unless `--sample-type` is given
    #[arg(long)]
    force_overwrite: bool,
    /// As in `energon prepare`
    #[arg(long, hide = true)]
    non_interactive: bool,
    /// Number of threads [default: the number of cores]
    #[arg(long, value_name = "N", alias = "workers", value_parser = clap::value_parser!(u16).range(1..))]
    num_workers: Option<u16>,
    #[command(flatten)]
    pub(super) output: OutputArgs,
}

/// Expressions of fields.
#[derive(Debug, Clone)]
struct FieldMap(BTreeMap<String, String>);

/// Shares of the splits.
#[derive(Debug, Clone)]
struct Ratio([f64; 3]);

fn field_map(text: &str) -> Result<FieldMap, String> {
    let value: Value = serde_json::from_str(text).map_err(|error| format!("not JSON: {error}"))?;
    let fields = value.as_object().ok_or("not a JSON object: write {\"image\": \"jpg\"}")?;
    let text = |(name, value): (&String, &Value)| match value.as_str() {
        Some(text) => Ok((name.clone(), text.to_owned())),
        None => Err(format!("the expression of {name} must be text")),
    };
    fields.iter().map(text).collect::<Result<_, _>>().map(FieldMap)
}

fn ratio(text: &str) -> Result<Ratio, String> {
    let shares: Vec<f64> = text
        .split(',')
        .map(str::trim)
        .map(str::parse)
        .collect::<Result<_, _>>()
        .map_err(|_| "three numbers: 8,1,1")?;
    match shares.as_slice() {
        [train, val, test] => Ok(Ratio([*train, *val, *test])),
        _ => Err("three numbers: 8,1,1".to_owned()),
    }
}

fn pattern(text: &str) -> Result<(String, String), String> {
    match text.split_once(':') {
        Some((split, pattern)) if !split.is_empty() && !pattern.is_empty() => Ok((split.to_owned(), pattern.to_owned())),
        _ => Err("a split and a pattern: train:shard_0.*".to_owned()),
    }
}

pub(super) fn prepare(args: &PrepareArgs, _: &Globals, report: &mut Report) -> Result<(), RunError> {
    if !args.folder.is_dir() {
        return Err(RunError::Argument(format!("there is no folder {}", args.folder.display())));
    }
    let loader = args.field_map.as_ref().map(|map| SampleLoader {
        sample_type: args.sample_type.clone(),
        field_map: map.0.clone(),
    });
    let options = PrepareOptions {
        workers: args.num_workers.map_or(0, usize::from),
        split: match args.split_parts.as_slice() {
            [] => SplitRule::Ratio(args.split_ratio.0),
            patterns => SplitRule::Patterns(patterns.to_vec()),
        },
        exclude: args.exclude.clone(),
        loader,
        index_only: args.tar_index_only,
        force: args.force_overwrite,
    };
    // Signals end the preparation between two shards, as long as the receiver lives.
    let (requests, _stops) = watch::channel(StopRequests::default());
    forward_signals(requests)?;
    let target = if report.shows_progress() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let style = ProgressStyle::with_template("reading shards {pos}/{len} {wide_bar:.cyan/dim} {eta} left");
    let bar = ProgressBar::with_draw_target(None, target).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let mut show = |progress: PrepareProgress| {
        bar.set_length(progress.total as u64);
        bar.set_position(progress.done as u64);
    };
    let done = neva_data::prepare(&args.folder, &options, &mut show, &is_stop_requested);
    bar.finish_and_clear();
    let prepared = done?;
    report.result(text(&prepared), &prepared);
    Ok(())
}

fn text(prepared: &Prepared) -> String {
    let mut lines = vec![format!("{} shards, {} samples", prepared.shards, prepared.samples)];
    if prepared.resumed > 0 {
        lines.push(format!("{} shards were read by an earlier preparation", prepared.resumed));
    }
    let parts: Vec<&str> = prepared.parts.iter().map(String::as_str).collect();
    lines.push(format!("parts: {}", parts.join(", ")));
    for split in &prepared.splits {
        lines.push(format!("{}: {} shards, {} samples", split.name, split.shards, split.samples));
    }
    lines.join("\n")
}
