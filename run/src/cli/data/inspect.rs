//! `neva-run data inspect RECIPE`: shows samples as the model gets them.

use std::path::PathBuf;

use clap::{Args, ValueHint};
use neva_data::{EnergonView, InspectedData, RecordFile, Selection, inspect_energon, page};
use neva_schemas::Data;
use serde_json::json;

use super::sample_text::{Style, samples};
use crate::{
    cli::{Globals, OutputArgs, RecipeInput, export::write_file, report::Report},
    environment,
    error::RunError,
    preflight::{RunData, open_data, open_splits},
};

const EXAMPLES: &str = "\
Examples:
  neva-run data inspect mine.yaml                              three samples, in the terminal
  neva-run data inspect mine.yaml --record 17                  the record that a message names
  neva-run data inspect mine.yaml --record other.json#17       of another data file
  neva-run data inspect mine.yaml --html samples.html          sixteen samples, with images, for a browser
  neva-run data inspect mine.yaml --set finetune.data.data_config.conv_template=plain

Labels are the tokens that the model learns to write. They are green; without colours they are
between {+ and +}, and what is cut at seq_length is between [- and -].";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct InspectArgs {
    #[command(flatten)]
    input: RecipeInput,
    /// Number of samples, evenly spread over the data [default: 3, or 16 with `--html`]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    samples: Option<u32>,
    /// Show this record of the first data file, counted from 0; of another one with `FILE#RECORD`
    #[arg(long, value_name = "RECORD", conflicts_with = "samples")]
    record: Option<String>,
    /// Write a web page with images and tokens, which needs no other file. Replaces an existing file
    #[arg(long, value_name = "FILE.html", value_hint = ValueHint::FilePath)]
    html: Option<PathBuf>,
    /// Print the id of each token
    #[arg(long)]
    ids: bool,
    #[command(flatten)]
    pub(super) output: OutputArgs,
}

pub(super) fn inspect(args: &InspectArgs, globals: &Globals, report: &mut Report) -> Result<(), RunError> {
    let selection = args.selection()?;
    let resolved = args.input.resolve(globals.workspace()?.as_ref())?;
    report.warnings(&resolved.warnings);
    if let Data::Energon(data) = &resolved.run.finetune.data {
        let opened = open_splits(&resolved, data, &mut |text| report.note(text))?;
        let view = EnergonView {
            template: opened.tools.template.name().to_owned(),
            tokenizer: data.tokenizer.clone(),
            seq_length: data.seq_length,
            image_positions: opened.image_positions,
        };
        let splits: Vec<_> = opened.splits.iter().map(|(name, dataset)| (*name, &**dataset)).collect();
        return args.show(&inspect_energon(&splits, &view, &selection)?, report);
    }
    let probe = match open_data(&resolved, &mut |text| report.note(text))? {
        RunData::Files(probe) => probe,
        RunData::Mock => {
            let message = "mock data has no text and no images to show: set `finetune.data` to vlm.NevaPreloadedDataModule";
            return Err(RunError::Argument(message.to_owned()));
        }
    };
    let indices = RecordFile::cache_folder(environment::variable);
    args.show(&neva_data::inspect(&probe, &selection, indices.as_deref())?, report)
}

impl InspectArgs {
    /// Prints samples, or writes their page.
    fn show(&self, data: &InspectedData, report: &mut Report) -> Result<(), RunError> {
        match &self.html {
            Some(file) => {
                write_file(file, &page(&title(data), data), true)?;
                let count = data.samples.len();
                let text = format!("{}: {count} {}", file.display(), if count == 1 { "sample" } else { "samples" });
                report.result(text, &json!({ "html": file, "samples": count }));
            }
            None => {
                let style = Style {
                    colours: report.colours_results(),
                    ids: self.ids,
                };
                report.coloured_result(samples(data, style).trim_end(), data);
            }
        }
        Ok(())
    }

    fn selection(&self) -> Result<Selection, RunError> {
        let Some(record) = &self.record else {
            let default = if self.html.is_some() { 16 } else { 3 };
            return Ok(Selection::Spread(self.samples.map_or(default, |samples| samples as usize)));
        };
        let (file, index) = match record.rsplit_once('#') {
            Some((file, index)) => (Some(file.to_owned()), index),
            None => (None, record.as_str()),
        };
        let index = index.parse().map_err(|_| {
            let message = format!("`--record {record}` is not a record: write its number, from 0, or FILE#NUMBER");
            RunError::Argument(message)
        })?;
        Ok(Selection::Record { file, index })
    }
}

/// Returns the heading of a page.
fn title(data: &InspectedData) -> String {
    match data.files.as_slice() {
        [one] => format!("Samples of {one}"),
        several => format!("Samples of {} data files", several.len()),
    }
}
