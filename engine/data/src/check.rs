//! Check of all data of a run before it starts: JSON, conversations, images, tokens, labels, lengths, repeated records.
//!
//! ```text
//! data files --RecordFile--> records --workers: Probe, image headers--> CheckedRecord --in order--> CheckReport
//!                                                                            +--> skip list, length index
//! ```
//!
//! A record is read by the code of the training ([`Probe`]), so both have the same opinion of it. Memory holds a bounded
//! number of records, and about 100 bytes for each record of the data: its place, hashes, length, the verdict on its image.

mod cache;
mod collector;
mod content;
mod error;
mod finding;
mod header;
mod image_files;
mod kind;
mod options;
mod outputs;
mod probe;
mod repeated;
mod report;
mod sample;
mod totals;
mod workers;

use std::{num::NonZero, sync::Arc, thread, time::Instant};

use cache::Entry;
use collector::{Checked, Collector};
pub use error::CheckError;
pub use finding::Finding;
pub(crate) use image_files::problem as image_problem;
pub use kind::{Kind, Level};
pub use options::{CheckOptions, CheckProgress, ImageCheck};
use outputs::{LENGTH_INDEX, SKIP_LIST, Staging, copy, deliver};
pub use probe::Probe;
pub(crate) use probe::{ImageRef, Parsed, Source, lengths_of};
pub use report::{CheckReport, FileReport};
pub use totals::{ImageReport, KindReport, LengthRange, LengthReport};
use workers::check_all;

/// Checks all data of a run. Calls `progress` often, and ends early once `stop` returns true.
///
/// Problems of the data are in the report. Files are written when the check is complete.
///
/// # Errors
/// The check was stopped, or a file cannot be written.
pub fn check(
    probe: &Arc<Probe>,
    options: &CheckOptions,
    progress: &mut dyn FnMut(CheckProgress),
    stop: &dyn Fn() -> bool,
) -> Result<CheckReport, CheckError> {
    let started = Instant::now();
    let workers = match options.workers {
        0 => thread::available_parallelism().map_or(1, NonZero::get),
        workers => workers,
    };
    let sources: Arc<[Source]> = probe.sources(options.indices.as_deref())?.into();
    let entry = Entry::of(probe, &sources, options);
    let known = entry.as_ref().and_then(|entry| Some((entry, entry.load(workers)?)));
    if let Some((entry, mut report)) = known {
        let kept = |name: &str| entry.folder.join(name);
        report.skip_list = deliver(options.skip_list.as_ref(), |to| copy(&kept(SKIP_LIST), to))?;
        report.length_index = deliver(options.length_index.as_ref(), |to| copy(&kept(LENGTH_INDEX), to))?;
        report.cached = true;
        report.workers = workers;
        report.seconds = started.elapsed().as_secs_f64();
        return Ok(report);
    }

    let mut collector = Collector::new(probe, &sources, options);
    if entry.is_some() {
        collector.staging = options.cache.as_deref().and_then(Staging::new);
    }
    progress(collector.progress);
    check_all(probe, &sources, options.images, workers, &mut |batch| {
        if stop() {
            return Err(CheckError::Stopped {
                records: collector.progress.records,
            });
        }
        collector.add(batch);
        progress(collector.progress);
        Ok(())
    })?;
    let Checked {
        mut report,
        skip_list,
        lengths,
        staging,
    } = collector.finish();
    report.workers = workers;
    report.skip_list = deliver(options.skip_list.as_ref(), |to| skip_list.write(to))?;
    report.length_index = deliver(options.length_index.as_ref(), |to| lengths.write(to))?;
    report.seconds = started.elapsed().as_secs_f64();
    if let (Some(entry), Some(folder)) = (entry, staging.and_then(|staging| staging.finish(&skip_list, &lengths))) {
        entry.store(&report, folder);
    }
    Ok(report)
}
