//! Sums over the checked records, which come in the order of the files.

use std::collections::BTreeMap;

use super::{
    finding::Finding,
    kind::{Kind, Level},
    options::{CheckOptions, CheckProgress},
    outputs::Staging,
    probe::{Probe, Source},
    repeated::{Repeated, place},
    report::{CheckReport, FORMAT, FileReport},
    sample::CheckedRecord,
    totals::{ImageTotals, LengthTotals, Problems},
    workers::Batch,
};
use crate::{
    length_index::{FileLengths, LengthIndex},
    llava::RecordCounts,
    skip_list::{SkipList, SkippedRecords},
};

/// Maximum number of characters of a reason in the skip list.
const MAX_REASON: usize = 200;

/// Sums of one file.
#[derive(Clone, Debug, Default)]
struct FileSums {
    lengths: Vec<u32>,
    kept_labels: u64,
    skipped: BTreeMap<u64, String>,
}

/// Sums of all records, which come in their order.
pub(super) struct Collector<'a> {
    options: &'a CheckOptions,
    probe: &'a Probe,
    sources: &'a [Source],
    files: Vec<FileSums>,
    problems: Problems,
    images: ImageTotals,
    lengths: LengthTotals,
    repeated: Repeated,
    broken_records: u64,
    counts: RecordCounts,
    pub(super) progress: CheckProgress,
    /// Folder of the cache that gets the result.
    pub(super) staging: Option<Staging>,
}

/// A complete check.
pub(super) struct Checked {
    pub(super) report: CheckReport,
    pub(super) skip_list: SkipList,
    pub(super) lengths: LengthIndex,
    pub(super) staging: Option<Staging>,
}

impl<'a> Collector<'a> {
    /// Starts with the problems of whole files.
    pub(super) fn new(probe: &'a Probe, sources: &'a [Source], options: &'a CheckOptions) -> Self {
        let mut collector = Self {
            options,
            probe,
            sources,
            files: vec![FileSums::default(); sources.len()],
            problems: Problems::default(),
            images: ImageTotals::default(),
            lengths: LengthTotals::default(),
            repeated: Repeated::default(),
            broken_records: 0,
            counts: RecordCounts::default(),
            progress: CheckProgress {
                total: sources.iter().map(|source| source.len() as u64).sum(),
                ..CheckProgress::default()
            },
            staging: None,
        };
        for source in sources {
            if let Err((kind, record, reason)) = &source.records {
                let finding = Finding {
                    record: *record,
                    ..whole_file(*kind, Some(&source.name), reason.clone())
                };
                collector.problems.add(finding, options.first);
            }
        }
        collector
    }

    /// Adds records.
    pub(super) fn add(&mut self, batch: Batch) {
        for record in batch.records {
            self.record(batch.file, record);
        }
        self.progress.errors = self.problems.errors;
        self.progress.warnings = self.problems.warnings;
    }

    fn record(&mut self, file: usize, mut record: CheckedRecord) {
        self.progress.records += 1;
        if self.sources.get(file).is_some_and(|source| source.skipped.contains(&record.index)) {
            if let Some(sums) = self.files.get_mut(file) {
                sums.lengths.push(0);
                sums.skipped
                    .insert(record.index as u64, "in the skip list of the recipe".to_owned());
            }
            return;
        }
        self.repeats(file, &mut record);
        self.images.add_uses(record.images);
        for image in &record.new_images {
            self.images.add(image);
            if let Some(staging) = &mut self.staging {
                staging.image(image);
            }
        }
        let has_error = record.problems.iter().any(|(kind, ..)| kind.level() == Level::Error);
        self.broken_records += u64::from(has_error);
        self.counts += record.counts;
        let lengths = record.lengths.unwrap_or_default();
        if record.lengths.is_some() {
            self.lengths.add(&lengths, self.probe.seq_length());
        }
        let skips = |kind: Kind| kind.level() == Level::Error || self.options.skip.contains(&kind);
        let skipped = record.problems.iter().find(|(kind, ..)| skips(*kind));
        if let Some(sums) = self.files.get_mut(file) {
            sums.lengths.push(u32::try_from(lengths.positions).unwrap_or(u32::MAX));
            sums.kept_labels += lengths.kept_labels as u64;
            if let Some((kind, _, reason)) = skipped {
                let reason: String = format!("{kind}: {reason}").chars().take(MAX_REASON).collect();
                sums.skipped.insert(record.index as u64, reason);
            }
        }
        for (kind, field, reason) in record.problems {
            let finding = Finding {
                kind,
                file: self.sources.get(file).map(|source| source.name.to_string()),
                record: Some(record.index),
                id: record.id.clone(),
                field,
                reason,
            };
            self.problems.add(finding, self.options.first);
        }
    }

    /// Adds the problems of a record that occurred before.
    fn repeats(&mut self, file: usize, record: &mut CheckedRecord) {
        let is_validation = |file: usize| self.sources.get(file).is_some_and(|source| source.is_validation);
        if let Some(hash) = record.content
            && let Some(first) = self.repeated.content(hash, file, record.index)
        {
            let first_place = place(self.sources, file, first);
            let (kind, reason) = if is_validation(file) && !is_validation(first.0) {
                (Kind::InBothSplits, format!("validates with {first_place}, which the run trains on"))
            } else {
                (Kind::Duplicate, format!("has the images and messages of {first_place}"))
            };
            record.problems.push((kind, None, reason));
        }
        if let Some(hash) = record.id_hash
            && let Some(first) = self.repeated.id(hash, file, record.index)
        {
            let reason = format!("is the id of record {first}, too");
            record.problems.push((Kind::DuplicateId, Some("id".to_owned()), reason));
        }
    }

    /// Adds the problems of the whole data: no record, or no label.
    fn whole(&mut self) {
        for (is_validation, name) in [(false, "paths"), (true, "val_paths")] {
            let files = self.sources.iter().zip(&self.files);
            let files: Vec<_> = files.filter(|(source, _)| source.is_validation == is_validation).collect();
            let is_empty = |(source, sums): &(&Source, &FileSums)| source.records.is_ok() && sums.lengths.is_empty();
            let samples: usize = files
                .iter()
                .map(|(_, sums)| sums.lengths.iter().filter(|length| **length > 0).count())
                .sum();
            let labels: u64 = files.iter().map(|(_, sums)| sums.kept_labels).sum();
            let (kind, reason) = if !files.is_empty() && files.iter().all(is_empty) {
                (Kind::NoRecords, format!("there is no record in any file of `{name}`"))
            } else if samples > 0 && labels == 0 {
                let reason = format!("no record of `{name}` has a label within seq_length {}", self.probe.seq_length());
                (Kind::Unlabelled, reason)
            } else {
                continue;
            };
            self.problems.add(whole_file(kind, None, reason), self.options.first);
        }
    }

    /// Returns the result.
    pub(super) fn finish(mut self) -> Checked {
        self.whole();
        let mut skip_list = SkipList::default();
        let mut lengths = LengthIndex {
            settings: self.probe.length_key(),
            files: Vec::new(),
        };
        let (mut files, mut skipped) = (Vec::new(), 0);
        for (source, sums) in self.sources.iter().zip(self.files) {
            let fingerprint = source.fingerprint();
            files.push(FileReport {
                file: source.name.to_string(),
                is_validation: source.is_validation,
                records: source.len() as u64,
                fingerprint: fingerprint.clone(),
            });
            skipped += sums.skipped.len() as u64;
            let Some(fingerprint) = fingerprint else { continue };
            let file = std::path::absolute(&source.path).unwrap_or_else(|_| source.path.clone());
            let file = file.display().to_string();
            let records = SkippedRecords {
                file: file.clone(),
                records: source.len() as u64,
                skipped: sums.skipped,
            };
            // The list tells files by their content: what a copy repeats must not remove the records of the first file.
            if skip_list.of(&fingerprint).is_none() {
                skip_list.insert(fingerprint.clone(), records);
            }
            lengths.files.push(FileLengths {
                file,
                fingerprint,
                lengths: sums.lengths,
            });
        }
        let report = CheckReport {
            format: FORMAT,
            records: self.progress.records,
            broken_records: self.broken_records,
            errors: self.problems.errors,
            warnings: self.problems.warnings,
            files,
            images: self.images.report(self.options.images.name()),
            lengths: self.lengths.report(self.probe.seq_length()),
            notes: self.counts.sentences(),
            problems: self.problems.report(),
            skipped,
            skip_list: None,
            length_index: None,
            cached: false,
            workers: 0,
            seconds: 0.0,
        };
        Checked {
            report,
            skip_list,
            lengths,
            staging: self.staging,
        }
    }
}

/// Returns a problem of a file or of the whole data.
fn whole_file(kind: Kind, file: Option<&str>, reason: String) -> Finding {
    Finding {
        kind,
        file: file.map(str::to_owned),
        record: None,
        id: None,
        field: None,
        reason,
    }
}
