//! `neva-run data check RECIPE` for Energon datasets: reads all samples as the training does.

use std::{fmt, num::NonZero, path::PathBuf, sync::Arc, thread};

use indicatif::ProgressBar;
use neva_data::{Dataset, SampleCheckOptions, SampleList, SampleReport, check_samples};
use neva_schemas::EnergonMultiModalDataModule;
use serde::Serialize;
use tokio::sync::watch;

use crate::{
    cli::report::Report,
    error::RunError,
    job::{StopRequests, forward_signals, is_stop_requested},
    preflight::open_splits,
    resolve::Resolved,
};

/// The report, and the skip list that was written.
#[derive(Debug, Serialize)]
struct Checked<'a> {
    #[serde(flatten)]
    report: &'a SampleReport,
    skip_list: Option<&'a PathBuf>,
    /// Most broken samples to print.
    #[serde(skip)]
    first: usize,
}

/// Settings of a check.
pub(super) struct Request<'a> {
    /// File for the broken samples.
    pub(super) skip_list: Option<&'a PathBuf>,
    /// Decode images.
    pub(super) images: bool,
    /// Number of threads; `None` is the number of cores.
    pub(super) workers: Option<u16>,
    /// Most broken samples to print.
    pub(super) first: usize,
    /// Bar of the progress.
    pub(super) bar: ProgressBar,
}

pub(super) fn check(
    request: &Request<'_>,
    data: &EnergonMultiModalDataModule,
    resolved: &Resolved,
    report: &mut Report,
) -> Result<(), RunError> {
    let opened = open_splits(resolved, data, &mut |text| report.note(text))?;
    let splits: Vec<(&str, Arc<dyn Dataset>)> = (opened.splits.iter())
        .map(|(name, dataset)| (*name, Arc::clone(dataset) as Arc<dyn Dataset>))
        .collect();
    let options = SampleCheckOptions {
        image_seq_len: opened.image_positions,
        max_length: data.seq_length,
        images: request.images,
        threads: request
            .workers
            .map_or_else(|| thread::available_parallelism().map_or(1, NonZero::get), usize::from),
    };
    // Signals end the check between two chunks, as long as the receiver lives.
    let (requests, _stops) = watch::channel(StopRequests::default());
    forward_signals(requests)?;
    let bar = &request.bar;
    bar.set_length(splits.iter().map(|(_, dataset)| dataset.len() as u64).sum());
    let checked = check_samples(&splits, &options, &mut |done| bar.set_position(done), &is_stop_requested);
    bar.finish_and_clear();
    let checked = checked?;
    if let Some(file) = request.skip_list {
        let broken = checked.broken.iter().map(|broken| (broken.sample.clone(), broken.reason.clone()));
        SampleList { samples: broken.collect() }.write(file)?;
    }
    let shown = Checked {
        report: &checked,
        skip_list: request.skip_list,
        first: request.first,
    };
    report.result(&shown, &shown);
    if checked.errors > 0 {
        return Err(RunError::BrokenData {
            errors: checked.errors,
            records: checked.errors,
            skip_list: request.skip_list.cloned(),
        });
    }
    Ok(())
}

impl fmt::Display for Checked<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, split) in self.report.splits.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{}: {} samples, {} images", split.name, split.samples, split.images)?;
            if split.samples > split.broken {
                write!(f, "\n  {} to {} positions, mean {:.0}", split.shortest, split.longest, split.mean)?;
            }
            for (count, what) in [
                (split.text_only, "without an image"),
                (split.unlabelled, "without a label"),
                (split.truncated, "longer than seq_length"),
                (split.broken, "broken"),
            ] {
                if count > 0 {
                    write!(f, "\n  {count} {what}")?;
                }
            }
        }
        for broken in self.report.broken.iter().take(self.first) {
            write!(f, "\n{}: {}", broken.split, broken.reason)?;
        }
        let more = self.report.broken.len().saturating_sub(self.first);
        if more > 0 {
            write!(f, "\nand {more} more")?;
        }
        match self.skip_list {
            Some(file) => write!(f, "\nskip list: {} ({} samples)", file.display(), self.report.broken.len()),
            None => Ok(()),
        }
    }
}
