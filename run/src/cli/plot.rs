//! `neva-run plot RUN...`: figure of the curves of runs.

use std::path::PathBuf;

use clap::Args;
use neva_track::plot;
use serde_json::json;

use super::{OutputArgs, report::Report};
use crate::error::RunError;

const EXAMPLES: &str = "\
Examples:
  neva-run plot nemo_experiments/default/2026-11-24_09-00-00
  neva-run plot nemo_experiments/lr-1 nemo_experiments/lr-2 --out both.svg";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct PlotArgs {
    /// Folders of runs, or their `metrics.jsonl`; several runs share one figure
    #[arg(value_name = "RUN", required = true)]
    runs: Vec<PathBuf>,
    /// File to write [default: curves.svg in the folder of the first run]
    #[arg(long, value_name = "FILE.svg")]
    out: Option<PathBuf>,
    #[command(flatten)]
    pub(super) output: OutputArgs,
}

pub(super) fn plot(args: &PlotArgs, report: &mut Report) -> Result<(), RunError> {
    let curves = plot::draw(&args.runs, args.out.as_deref())?;
    report.result(curves.display(), &json!({ "curves": curves }));
    Ok(())
}
