//! `neva-run data check RECIPE`: checks all data of a recipe.

use std::path::PathBuf;

use clap::{Args, ValueHint};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use neva_data::{CheckOptions, CheckProgress, ImageCheck, Kind, Level, RecordFile};
use neva_schemas::Data;
use serde_json::json;
use tokio::sync::watch;

use super::{check_samples, check_text::CheckText};
use crate::{
    cli::{Globals, OutputArgs, RecipeInput, report::Report},
    environment,
    error::RunError,
    job::{StopRequests, forward_signals, is_stop_requested},
    preflight::{RunData, open_data},
};

const EXAMPLES: &str = "\
Examples:
  neva-run data check mine.yaml
  neva-run data check mine.yaml --skip-list skip.jsonl --length-index lengths.bin
  neva-run data check mine.yaml --skip-list skip.jsonl --skip duplicate,labels_cut
  neva-run data check mine.yaml --no-images           the images are on another machine
  neva-run data check mine.yaml --decode-images       find damage within images, too
  neva-run data check mine.yaml --output json | jq '.problems[] | {kind, count}'

Exit code 2 if the data has errors. Warnings do not change it. A second check of the same files
takes seconds: results are kept in $XDG_CACHE_HOME/neva-run/checks.";

/// Progress: records, problems, speed and remaining time; the bar fills the remaining width.
const TEMPLATE: &str = "checking {human_pos}/{human_len} {wide_bar:.cyan/dim} {msg}  {per_sec}  {eta} left";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct CheckArgs {
    #[command(flatten)]
    input: RecipeInput,
    /// Write the records with errors to a JSON Lines file; `--set finetune.data.skip_list=FILE` trains without them
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    skip_list: Option<PathBuf>,
    /// Add the records with these warnings to the skip list: `duplicate`, `labels_cut` and others
    #[arg(long, value_name = "KIND", value_delimiter = ',', value_parser = warning, requires = "skip_list")]
    skip: Vec<Kind>,
    /// Write the length of each record, for packing and grouping by length
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    length_index: Option<PathBuf>,
    /// Do not look at image files
    #[arg(long)]
    no_images: bool,
    /// Decode every image, which takes longer. By default, only its header and its end are read
    #[arg(long, conflicts_with = "no_images")]
    decode_images: bool,
    /// Number of threads [default: the number of cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    workers: Option<u16>,
    /// Number of problems of each kind to print
    #[arg(long, value_name = "N", default_value_t = 5)]
    first: usize,
    /// Check again, even if nothing has changed since an earlier check
    #[arg(long)]
    no_cache: bool,
    #[command(flatten)]
    pub(super) output: OutputArgs,
}

/// Parses the name of a warning.
fn warning(name: &str) -> Result<Kind, String> {
    let is_warning = |kind: &Kind| kind.level() == Level::Warning;
    Kind::named(name).filter(is_warning).ok_or_else(|| {
        let names: Vec<_> = Kind::ALL.iter().filter(|kind| is_warning(kind)).map(|kind| kind.name()).collect();
        format!("there is no such warning: choose from {}", names.join(", "))
    })
}

pub(super) fn check(args: &CheckArgs, globals: &Globals, report: &mut Report) -> Result<(), RunError> {
    let resolved = args.input.resolve(globals.workspace()?.as_ref())?;
    report.warnings(&resolved.warnings);
    if let Data::Energon(data) = &resolved.run.finetune.data {
        for (is_given, option) in [(args.length_index.is_some(), "--length-index"), (!args.skip.is_empty(), "--skip")] {
            if is_given {
                let message = format!("{option} is for LLaVA-JSON: `neva-run data pack` measures the samples of Energon datasets");
                return Err(RunError::Argument(message));
            }
        }
        let request = check_samples::Request {
            skip_list: args.skip_list.as_ref(),
            images: !args.no_images,
            workers: args.workers,
            first: args.first,
            bar: progress_bar(report.shows_progress()),
        };
        return check_samples::check(&request, data, &resolved, report);
    }
    let probe = match open_data(&resolved, &mut |text| report.note(text))? {
        RunData::Files(probe) => probe,
        RunData::Mock => {
            report.result("mock data: there are no files to check", &json!({ "mock": true }));
            return Ok(());
        }
    };
    let indices = RecordFile::cache_folder(environment::variable);
    let checks = indices.as_ref().and_then(|indices| Some(indices.parent()?.join("checks")));
    let options = CheckOptions {
        workers: args.workers.map_or(0, usize::from),
        images: match (args.no_images, args.decode_images) {
            (true, _) => ImageCheck::Skip,
            (_, true) => ImageCheck::Decode,
            _ => ImageCheck::Header,
        },
        first: args.first,
        skip: args.skip.clone(),
        skip_list: args.skip_list.clone(),
        length_index: args.length_index.clone(),
        cache: checks.filter(|_| !args.no_cache),
        indices,
    };
    // Signals end the check between two records, as long as the receiver lives.
    let (requests, _stops) = watch::channel(StopRequests::default());
    forward_signals(requests)?;
    let bar = progress_bar(report.shows_progress());
    let checked = neva_data::check(&probe, &options, &mut |progress| show(&bar, &progress), &is_stop_requested);
    bar.finish_and_clear();
    let checked = checked?;
    report.result(CheckText(&checked), &checked);
    if checked.errors > 0 {
        return Err(RunError::BrokenData {
            errors: checked.errors,
            records: checked.broken_records,
            skip_list: checked.skip_list,
        });
    }
    Ok(())
}

fn progress_bar(is_shown: bool) -> ProgressBar {
    let target = if is_shown {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    // The template is valid; a test draws it.
    let style = ProgressStyle::with_template(TEMPLATE).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::with_draw_target(None, target).with_style(style.progress_chars("━╸─"))
}

fn show(bar: &ProgressBar, progress: &CheckProgress) {
    bar.set_length(progress.total);
    bar.set_message(format!("{} errors, {} warnings", progress.errors, progress.warnings));
    bar.set_position(progress.records);
}
