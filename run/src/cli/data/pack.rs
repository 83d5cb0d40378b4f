//! `neva-run data pack RECIPE`: packs the training samples of a recipe into rows ahead of time.

use std::{num::NonZero, path::PathBuf, sync::Arc, thread};

use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use neva_data::{MeasuredLengths, PackedSet, PackingOptions};
use neva_schemas::PackingOversize;
use serde::Serialize;
use tokio::sync::watch;

use crate::{
    cli::{Globals, OutputArgs, RecipeInput, report::Report},
    error::RunError,
    job::{StopRequests, forward_signals, is_stop_requested},
    preflight::open_samples,
};

const EXAMPLES: &str = "\
Examples:
  neva-run data pack mine.yaml
  neva-run data pack mine.yaml --set finetune.data.packed_set=packed.bin

Writes the file that `finetune.data.packed_set` names: the samples of each row and their lengths. Texts
and images stay where they are. All samples are packed together, or `packing_buffer_size` of them at a
time. A run has the rows of the file in another order in each epoch.";

/// Samples that are measured between two looks at signals.
const CHUNK: usize = 1024;

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct PackArgs {
    #[command(flatten)]
    input: RecipeInput,
    /// Number of threads [default: the number of cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    workers: Option<u16>,
    #[command(flatten)]
    pub(super) output: OutputArgs,
}

/// Result of a packing.
#[derive(Debug, Serialize)]
struct Packed {
    file: PathBuf,
    samples: usize,
    rows: usize,
    row_length: usize,
    fill: f64,
    truncated: usize,
    left_out: usize,
}

pub(super) fn pack(args: &PackArgs, globals: &Globals, report: &mut Report) -> Result<(), RunError> {
    let resolved = args.input.resolve(globals.workspace()?.as_ref())?;
    report.warnings(&resolved.warnings);
    let data = &resolved.run.finetune.data;
    let Some((packing, file)) = data.packing().and_then(|packing| Some((packing.clone(), packing.set?))) else {
        let message = "the recipe names no file for the rows: add `--set finetune.data.packed_set=FILE` (vlm.NevaPreloadedDataModule, \
                       EnergonMultiModalDataModule)";
        return Err(RunError::Argument(message.to_owned()));
    };
    if file.exists() && PackedSet::read(&file).is_err() {
        let message = format!("{} exists and is no packed set: remove it, or name another file", file.display());
        return Err(RunError::Argument(message));
    }
    let samples = open_samples(&resolved, &mut |text| report.note(text))?;
    if !samples.train.order(data.seed(), data.shuffle()).reads_each_once() {
        let message = "a packed set has every sample once in an epoch, but this mixture has weights: set packing_buffer_size, which \
                       packs it as it is read";
        return Err(RunError::Argument(message.to_owned()));
    }
    let options = PackingOptions {
        buffer: packing.buffer.unwrap_or(usize::MAX),
        row_length: packing.row_length,
        max_length: packing.max_length,
        skips_longer: packing.oversize == PackingOversize::Skip,
    };
    let workers = args
        .workers
        .map_or_else(|| thread::available_parallelism().map_or(1, NonZero::get), usize::from);
    let measured = MeasuredLengths::new(Arc::clone(&samples.train), samples.image_positions, workers);
    let lengths = lengths(&measured, report.shows_progress())?;
    let set = PackedSet::pack(samples.train.identity(), lengths, &options)?;
    set.write(&file)?;
    let packed = Packed {
        file,
        samples: set.samples(),
        rows: set.rows(),
        row_length: options.row_length,
        fill: set.fill(),
        truncated: set.truncated(),
        left_out: set.left_out(),
    };
    report.result(text(&packed), &packed);
    Ok(())
}

/// Measures all samples.
fn lengths(measured: &MeasuredLengths, shows_progress: bool) -> Result<Vec<u32>, RunError> {
    // Signals end the measurement between two chunks, as long as the receiver lives.
    let (requests, _stops) = watch::channel(StopRequests::default());
    forward_signals(requests)?;
    let count = measured.dataset().len() as u64;
    let target = if shows_progress {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let style = ProgressStyle::with_template("measuring samples {human_pos}/{human_len} {wide_bar:.cyan/dim} {per_sec} {eta} left");
    let bar = ProgressBar::with_draw_target(Some(count), target).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let indices: Vec<u64> = (0..count).collect();
    let mut lengths = Vec::with_capacity(indices.len());
    for chunk in indices.chunks(CHUNK) {
        if is_stop_requested() {
            bar.finish_and_clear();
            return Err(RunError::PackStopped { samples: lengths.len() });
        }
        let chunk = measured.of(chunk)?;
        lengths.extend(chunk.iter().map(|length| u32::try_from(length.positions).unwrap_or(u32::MAX)));
        bar.set_position(lengths.len() as u64);
    }
    bar.finish_and_clear();
    Ok(lengths)
}

fn text(packed: &Packed) -> String {
    let Packed {
        samples, rows, row_length, ..
    } = packed;
    let mut lines = vec![format!(
        "{samples} samples in {rows} rows of up to {row_length} positions, {:.1} % filled",
        100.0 * packed.fill
    )];
    for (count, what) in [(packed.truncated, "truncated"), (packed.left_out, "left out")] {
        if count > 0 {
            lines.push(format!("{count} samples are longer than seq_length or a row: {what}"));
        }
    }
    lines.push(format!("wrote {}", packed.file.display()));
    lines.join("\n")
}
