//! Problems that loading finds, and the decision whether the data can be used.

use std::{ops::Range, panic::resume_unwind, thread};

use super::{
    Broken, LlavaJsonConfig, RecordCounts,
    source::{RecordSource, lacks_image},
};
use crate::error::DataError;
use crate::problem::{Problem, first_problems};

/// Most threads that validate a file: there are several ranks on a machine.
const MAX_THREADS: usize = 8;

/// Least number of records for a thread.
const MIN_RECORDS: usize = 4096;

/// Findings of all files.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Problems in the order of files and records.
    problems: Vec<Problem>,
    /// Those that no policy skips: they are of whole files.
    file_problems: Vec<Problem>,
    /// Dataset indices of records with problems.
    broken: Vec<usize>,
    /// Number of records whose images exist, and of images that do not.
    with_images: usize,
    missing_images: usize,
    /// Number of records that a skip list leaves out.
    skipped: usize,
    counts: RecordCounts,
}

impl Found {
    /// Validates all records of a file, on several threads.
    ///
    /// # Errors
    /// Returns an error if the image folder does not exist.
    pub(super) fn check(&mut self, file: &RecordSource, config: &LlavaJsonConfig) -> Result<(), DataError> {
        let threads = thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS);
        let each = file.file_len().div_ceil(threads).max(MIN_RECORDS);
        let starts = (0..file.file_len()).step_by(each);
        let parts = thread::scope(|scope| {
            let check = |start: usize| {
                let mut part = Self::default();
                let outcome = part.check_records(file, config, start..(start + each).min(file.file_len()));
                (part, outcome)
            };
            let threads: Vec<_> = starts.map(|start| scope.spawn(move || check(start))).collect();
            let join = |thread: thread::ScopedJoinHandle<'_, _>| thread.join().unwrap_or_else(|panic| resume_unwind(panic));
            threads.into_iter().map(join).collect::<Vec<_>>()
        });
        self.skipped += file.num_skipped();
        parts.into_iter().try_for_each(|(part, outcome)| {
            self.add(part);
            outcome
        })
    }

    /// Returns the numbers of records that are taken with a change.
    pub(super) fn counts(&self) -> RecordCounts {
        self.counts
    }

    /// Adds a problem of a whole file.
    pub(super) fn fail(&mut self, problem: Problem) {
        self.problems.push(problem.clone());
        self.file_problems.push(problem);
    }

    /// Adds the findings in the records after those of `self`.
    fn add(&mut self, later: Self) {
        self.file_problems.extend(later.file_problems);
        self.problems.extend(later.problems);
        self.broken.extend(later.broken);
        self.with_images += later.with_images;
        self.missing_images += later.missing_images;
        self.counts += later.counts;
    }

    /// Validates the records of a file with these indices in the file.
    ///
    /// # Errors
    /// Returns an error if the image folder does not exist.
    pub(super) fn check_records(&mut self, file: &RecordSource, config: &LlavaJsonConfig, records: Range<usize>) -> Result<(), DataError> {
        let mut outcome = Ok(());
        let visited = file.each(records, |number, index, value| {
            let before = self.problems.len();
            let record = file.check(index, value, config, &mut self.problems);
            let problems = self.problems.get(before..).unwrap_or_default();
            match record {
                Some(record) => {
                    self.with_images += usize::from(!record.images.is_empty());
                    self.counts += record.counts;
                }
                None => {
                    self.missing_images += problems.iter().filter(|problem| lacks_image(problem)).count();
                    self.broken.push(file.first() + number);
                    outcome = file.require_folder(problems);
                }
            }
            outcome.is_ok()
        });
        if let Err(problem) = visited {
            self.fail(problem);
        }
        outcome
    }

    /// Forgets the problems of records.
    pub(super) fn forget_records(&mut self) {
        self.problems.clone_from(&self.file_problems);
        self.broken.clear();
    }

    /// Decides by the policy whether the data of `len` records can be used. Returns the indices of broken records, and
    /// sentences for the log.
    ///
    /// # Errors
    /// Returns an error if the data cannot be used.
    pub(super) fn judge(self, policy: Broken, len: usize, config: &LlavaJsonConfig) -> Result<(Vec<usize>, Vec<String>), DataError> {
        let Self {
            problems,
            file_problems,
            broken,
            with_images,
            missing_images,
            skipped,
            counts: _,
        } = self;
        if !file_problems.is_empty() {
            return Err(DataError::Records { problems });
        }
        if len == 0 {
            return Err(DataError::NoRecords {
                paths: config.paths.clone(),
            });
        }
        let mut warnings = Vec::new();
        if skipped > 0 {
            warnings.push(format!("the skip list leaves out {skipped} of {} records", skipped + len));
        }
        if problems.is_empty() {
            return Ok((broken, warnings));
        }
        match policy {
            Broken::Fail => Err(DataError::Records { problems }),
            // A wrong folder looks like this; a single image may be lost.
            Broken::Skip(_) if with_images == 0 && missing_images > 1 => Err(DataError::Records { problems }),
            Broken::Skip(_) if broken.len() == len => Err(DataError::Records { problems }),
            Broken::Skip(max_skipped) if broken.len() > max_skipped => Err(DataError::TooManyBroken {
                skipped: broken.len(),
                max_skipped,
                error: Box::new(DataError::Records { problems }),
            }),
            Broken::Skip(_) => {
                warnings.push(format!(
                    "skips {} broken of {len} records and uses the next one instead:{}",
                    broken.len(),
                    first_problems(&problems)
                ));
                Ok((broken, warnings))
            }
        }
    }
}
