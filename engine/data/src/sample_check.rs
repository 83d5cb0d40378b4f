//! Check of all samples of datasets that are read by number, such as Energon's: each sample is read as the training reads it.

use std::{sync::Arc, thread, time::Instant};

use serde::Serialize;

use crate::{check::CheckError, error::DataError, sample::Dataset};

/// Samples of a chunk, between two looks at `stop`.
const CHUNK: usize = 256;

/// Settings of [`check_samples`].
#[derive(Clone, Copy, Debug)]
pub struct SampleCheckOptions {
    /// Number of positions of an image.
    pub image_seq_len: usize,
    /// Maximum number of positions of a sample.
    pub max_length: usize,
    /// Decodes and processes images.
    pub images: bool,
    /// Number of threads, at least one.
    pub threads: usize,
}

/// Report of [`check_samples`].
#[derive(Clone, Debug, Default, Serialize)]
pub struct SampleReport {
    /// The splits.
    pub splits: Vec<SplitReport>,
    /// Number of broken samples.
    pub errors: u64,
    /// Broken samples, in the order of the data.
    pub broken: Vec<BrokenSample>,
    /// Wall time.
    pub seconds: f64,
}

/// Samples of one split.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct SplitReport {
    /// Name of the split.
    pub name: String,
    /// Number of samples.
    pub samples: u64,
    /// Number of samples that cannot be read.
    pub broken: u64,
    /// Number of images.
    pub images: u64,
    /// Number of samples without an image.
    pub text_only: u64,
    /// Number of samples without a label.
    pub unlabelled: u64,
    /// Number of samples that are longer than the maximum.
    pub truncated: u64,
    /// Number of positions of the shortest sample.
    pub shortest: usize,
    /// Mean number of positions.
    pub mean: f64,
    /// Number of positions of the longest sample.
    pub longest: usize,
}

/// A sample that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BrokenSample {
    /// Name of the split.
    pub split: String,
    /// Name of the sample.
    pub sample: String,
    /// The reason.
    pub reason: String,
}

/// Counts of one sample.
struct Counts {
    positions: usize,
    images: usize,
    labels: usize,
}

/// Reads all samples of `splits`. Calls `progress` with the number of samples that were read, and ends once `stop` returns
/// true.
///
/// # Errors
/// The check was stopped, or the data as a whole cannot be read.
pub fn check_samples(
    splits: &[(&str, Arc<dyn Dataset>)],
    options: &SampleCheckOptions,
    progress: &mut dyn FnMut(u64),
    stop: &dyn Fn() -> bool,
) -> Result<SampleReport, CheckError> {
    let started = Instant::now();
    let mut report = SampleReport::default();
    let mut done = 0;
    for (name, dataset) in splits {
        let mut split = SplitReport {
            name: (*name).to_owned(),
            shortest: usize::MAX,
            ..SplitReport::default()
        };
        let mut positions = 0;
        let indices: Vec<usize> = (0..dataset.len()).collect();
        for chunk in indices.chunks(CHUNK * options.threads.max(1)) {
            if stop() {
                return Err(CheckError::Stopped { records: done });
            }
            for (index, read) in chunk.iter().zip(read(&**dataset, chunk, options)?) {
                split.samples += 1;
                match read {
                    Ok(counts) => {
                        positions += counts.positions;
                        split.images += counts.images as u64;
                        split.text_only += u64::from(counts.images == 0);
                        split.unlabelled += u64::from(counts.labels == 0);
                        split.truncated += u64::from(counts.positions > options.max_length);
                        split.shortest = split.shortest.min(counts.positions);
                        split.longest = split.longest.max(counts.positions);
                    }
                    Err(error) => {
                        split.broken += 1;
                        report.broken.push(BrokenSample {
                            split: split.name.clone(),
                            sample: dataset.name(*index),
                            reason: error.to_string(),
                        });
                    }
                }
            }
            done += chunk.len() as u64;
            progress(done);
        }
        let whole = split.samples - split.broken;
        if whole == 0 {
            split.shortest = 0;
        }
        split.mean = positions as f64 / whole.max(1) as f64;
        report.errors += split.broken;
        report.splits.push(split);
    }
    report.seconds = started.elapsed().as_secs_f64();
    Ok(report)
}

/// Reads samples with several threads. An error that is not of one sample ends the check.
fn read(dataset: &dyn Dataset, indices: &[usize], options: &SampleCheckOptions) -> Result<Vec<Result<Counts, DataError>>, CheckError> {
    let each = indices.len().div_ceil(options.threads.max(1)).max(1);
    let read_all = |indices: &[usize]| indices.iter().map(|index| read_one(dataset, *index, options)).collect::<Vec<_>>();
    let parts = thread::scope(|scope| {
        let threads: Vec<_> = indices.chunks(each).map(|part| scope.spawn(move || read_all(part))).collect();
        let join = |thread: thread::ScopedJoinHandle<'_, Vec<_>>| thread.join().map_err(|_| CheckError::Panicked);
        threads.into_iter().map(join).collect::<Result<Vec<_>, _>>()
    })?;
    let all: Vec<_> = parts.into_iter().flatten().collect();
    match all.iter().position(|read| matches!(read, Err(error) if !error.is_of_one_sample())) {
        None => Ok(all),
        Some(at) => match all.into_iter().nth(at) {
            Some(Err(error)) => Err(CheckError::Data(error)),
            _ => Ok(Vec::new()),
        },
    }
}

fn read_one(dataset: &dyn Dataset, index: usize, options: &SampleCheckOptions) -> Result<Counts, DataError> {
    let sample = match options.images {
        true => dataset.get(index)?,
        false => dataset.get_without_pixels(index)?,
    };
    Ok(Counts {
        positions: sample.sequence().merged_length(options.image_seq_len),
        images: sample.images.len(),
        labels: sample.num_labels(),
    })
}
