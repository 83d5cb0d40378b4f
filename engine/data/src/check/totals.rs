//! Sums over all records.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{finding::Finding, image_files::ImageFile, kind::Kind, kind::Level, probe::Lengths};

/// Lengths up to this are counted one by one.
const EXACT: usize = 1 << 16;

/// Number of ranges of the histogram up to `seq_length`.
const RANGES: usize = 10;

/// Problems of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KindReport {
    /// The kind.
    pub kind: Kind,
    /// Severity of the kind.
    pub level: Level,
    /// Number of problems.
    pub count: u64,
    /// Advice: what to change.
    pub help: String,
    /// The first problems, in the order of the data.
    pub first: Vec<Finding>,
}

/// Images of the data.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageReport {
    /// Thoroughness of the check: `skipped`, `header` or `decoded`.
    pub check: String,
    /// Number of images of all records.
    pub uses: u64,
    /// Number of different files.
    pub files: u64,
    /// Number of bytes of these files.
    pub bytes: u64,
    /// Number of files of each format.
    pub formats: BTreeMap<String, u64>,
    /// Width and height of the image with the fewest pixels.
    pub smallest: Option<(u32, u32)>,
    /// Width and height of the image with the most pixels.
    pub largest: Option<(u32, u32)>,
}

/// Lengths of the samples that a run can use, before the cut at `seq_length`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LengthReport {
    /// Maximum number of positions of a sample; the rest is cut.
    pub seq_length: u64,
    /// Number of samples.
    pub samples: u64,
    /// Number of positions of text.
    pub text_positions: u64,
    /// Number of positions of images.
    pub image_positions: u64,
    /// Number of labels.
    pub labels: u64,
    /// Number of labels that the cut removes.
    pub labels_cut: u64,
    /// Number of samples that are cut.
    pub truncated: u64,
    /// Number of positions of the shortest sample.
    pub min: u64,
    /// Mean number of positions.
    pub mean: f64,
    /// Half of the samples are not longer.
    pub median: u64,
    /// 95 % of the samples are not longer.
    pub p95: u64,
    /// Number of positions of the longest sample.
    pub max: u64,
    /// Number of samples in ranges of lengths.
    pub histogram: Vec<LengthRange>,
}

/// Number of samples in a range of lengths.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LengthRange {
    /// First length.
    pub from: u64,
    /// Last length; `None` for the range of all longer samples.
    pub to: Option<u64>,
    /// Number of samples.
    pub samples: u64,
}

/// Problems by kind.
#[derive(Debug, Default)]
pub(super) struct Problems {
    kinds: BTreeMap<Kind, (u64, Vec<Finding>)>,
    pub(super) errors: u64,
    pub(super) warnings: u64,
}

impl Problems {
    /// Adds a problem, and keeps it in full if it is one of the `first` ones of its kind.
    pub(super) fn add(&mut self, finding: Finding, first: usize) {
        match finding.kind.level() {
            Level::Error => self.errors += 1,
            Level::Warning => self.warnings += 1,
        }
        let (count, kept) = self.kinds.entry(finding.kind).or_default();
        *count += 1;
        if kept.len() < first {
            kept.push(finding);
        }
    }

    pub(super) fn report(self) -> Vec<KindReport> {
        let kinds = self.kinds.into_iter();
        kinds
            .map(|(kind, (count, first))| KindReport {
                kind,
                level: kind.level(),
                count,
                help: kind.help().to_owned(),
                first,
            })
            .collect()
    }
}

/// Sums of image files.
#[derive(Debug, Default)]
pub(super) struct ImageTotals(ImageReport);

impl ImageTotals {
    pub(super) fn add_uses(&mut self, uses: usize) {
        self.0.uses += uses as u64;
    }

    pub(super) fn add(&mut self, image: &ImageFile) {
        let report = &mut self.0;
        report.files += 1;
        report.bytes += image.state.map_or(0, |(bytes, _)| bytes);
        let Some(header) = image.header else { return };
        *report.formats.entry(header.format.to_owned()).or_default() += 1;
        let size = (header.width, header.height);
        let pixels = |(width, height): (u32, u32)| u64::from(width) * u64::from(height);
        // Ties are broken by the size itself, because the order of the files varies.
        let order = |size: &(u32, u32)| (pixels(*size), *size);
        report.smallest = [report.smallest, Some(size)].into_iter().flatten().min_by_key(order);
        report.largest = [report.largest, Some(size)].into_iter().flatten().max_by_key(order);
    }

    pub(super) fn report(self, check: &str) -> ImageReport {
        ImageReport {
            check: check.to_owned(),
            ..self.0
        }
    }
}

/// Sums of lengths.
#[derive(Debug, Default)]
pub(super) struct LengthTotals {
    /// Number of samples of each length up to [`EXACT`].
    exact: Vec<u64>,
    /// Number of samples of each greater length.
    longer: BTreeMap<usize, u64>,
    report: LengthReport,
}

impl LengthTotals {
    pub(super) fn add(&mut self, lengths: &Lengths, seq_length: usize) {
        let Lengths {
            positions,
            image_positions,
            labels,
            kept_labels,
        } = *lengths;
        if positions < EXACT {
            if self.exact.len() <= positions {
                self.exact.resize(positions + 1, 0);
            }
            if let Some(count) = self.exact.get_mut(positions) {
                *count += 1;
            }
        } else {
            *self.longer.entry(positions).or_default() += 1;
        }
        let report = &mut self.report;
        report.samples += 1;
        report.text_positions += (positions - image_positions) as u64;
        report.image_positions += image_positions as u64;
        report.labels += labels as u64;
        report.labels_cut += labels.saturating_sub(kept_labels) as u64;
        report.truncated += u64::from(positions > seq_length);
    }

    pub(super) fn report(self, seq_length: usize) -> LengthReport {
        let exact = self
            .exact
            .iter()
            .enumerate()
            .filter(|(_, count)| **count > 0)
            .map(|(length, count)| (length, *count));
        let mut lengths: Vec<(usize, u64)> = exact.chain(self.longer).collect();
        lengths.sort_unstable();
        let samples = self.report.samples;
        let at = |share: f64| {
            let rank = ((samples as f64 * share).ceil() as u64).max(1);
            let mut seen = 0;
            let found = lengths.iter().find(|(_, count)| {
                seen += count;
                seen >= rank
            });
            found.map_or(0, |(length, _)| *length as u64)
        };
        let total = self.report.text_positions + self.report.image_positions;
        LengthReport {
            seq_length: seq_length as u64,
            min: lengths.first().map_or(0, |(length, _)| *length as u64),
            mean: if samples == 0 { 0.0 } else { total as f64 / samples as f64 },
            median: at(0.5),
            p95: at(0.95),
            max: lengths.last().map_or(0, |(length, _)| *length as u64),
            histogram: histogram(&lengths, seq_length),
            ..self.report
        }
    }
}

/// Counts samples in equal ranges up to `seq_length`, and those that are longer.
fn histogram(lengths: &[(usize, u64)], seq_length: usize) -> Vec<LengthRange> {
    let count = |from: usize, to: usize| -> u64 {
        let within = lengths.iter().filter(|(length, _)| (from..=to).contains(length));
        within.map(|(_, count)| count).sum()
    };
    let width = seq_length.div_ceil(RANGES).max(1);
    let ranges = (0..RANGES).map(|range| range * width + 1).take_while(|from| *from <= seq_length);
    let range = |from: usize| {
        // A sample of no positions is in the first range.
        let (from, to) = (if from == 1 { 0 } else { from }, (from + width - 1).min(seq_length));
        LengthRange {
            from: from as u64,
            to: Some(to as u64),
            samples: count(from, to),
        }
    };
    let mut all: Vec<_> = ranges.map(range).collect();
    let beyond = seq_length.saturating_add(1);
    all.push(LengthRange {
        from: beyond as u64,
        to: None,
        samples: count(beyond, usize::MAX),
    });
    all
}
