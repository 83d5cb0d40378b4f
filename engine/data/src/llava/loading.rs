//! Problems that loading finds, and the decision whether the data can be used.

use super::{
    Broken, LlavaJsonConfig,
    source::{RecordSource, lacks_image},
};
use crate::{
    error::{DataError, Problem, first_problems},
    template::Template,
};

/// Findings of all files.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Problems of whole files.
    pub(super) file_problems: Vec<Problem>,
    /// Problems of records.
    record_problems: Vec<Problem>,
    /// Dataset indices of records with problems.
    broken: Vec<usize>,
    /// Number of records whose images exist, and of images that do not.
    with_images: usize,
    missing_images: usize,
    /// Number of records that a skip list leaves out.
    skipped: usize,
}

impl Found {
    /// Validates all records of a file.
    ///
    /// # Errors
    /// Returns an error if the image folder does not exist.
    pub(super) fn check(&mut self, file: &RecordSource, config: &LlavaJsonConfig, template: &Template) -> Result<(), DataError> {
        self.check_first(file, config, template, usize::MAX)
    }

    /// Validates the first `limit` records of a file.
    ///
    /// # Errors
    /// Returns an error if the image folder does not exist.
    pub(super) fn check_first(
        &mut self,
        file: &RecordSource,
        config: &LlavaJsonConfig,
        template: &Template,
        limit: usize,
    ) -> Result<(), DataError> {
        self.skipped += file.num_skipped();
        let mut outcome = Ok(());
        let visited = file.each(|number, index, value| {
            let before = self.record_problems.len();
            let record = file.check(index, value, config, template, &mut self.record_problems);
            let problems = self.record_problems.get(before..).unwrap_or_default();
            match record {
                Some(record) => self.with_images += usize::from(!record.images.is_empty()),
                None => {
                    self.missing_images += problems.iter().filter(|problem| lacks_image(problem)).count();
                    self.broken.push(file.first() + number);
                    outcome = file.require_folder(problems);
                }
            }
            outcome.is_ok() && number + 1 < limit
        });
        self.file_problems.extend(visited.err());
        outcome
    }

    /// Forgets the problems of records.
    pub(super) fn forget_records(&mut self) {
        self.record_problems.clear();
        self.broken.clear();
    }

    /// Decides by the policy whether the data of `len` records can be used. Returns the indices of broken records, and
    /// sentences for the log.
    ///
    /// # Errors
    /// Returns an error if the data cannot be used.
    pub(super) fn judge(self, policy: Broken, len: usize, config: &LlavaJsonConfig) -> Result<(Vec<usize>, Vec<String>), DataError> {
        let Self {
            file_problems,
            record_problems,
            broken,
            with_images,
            missing_images,
            skipped,
        } = self;
        let all = || {
            let problems = file_problems.iter().chain(&record_problems);
            DataError::Records {
                problems: problems.cloned().collect(),
            }
        };
        if !file_problems.is_empty() {
            return Err(all());
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
        if record_problems.is_empty() {
            return Ok((broken, warnings));
        }
        match policy {
            Broken::Fail => Err(all()),
            // A wrong folder looks like this; a single image may be lost.
            Broken::Skip(_) if with_images == 0 && missing_images > 1 => Err(all()),
            Broken::Skip(_) if broken.len() == len => Err(all()),
            Broken::Skip(max_skipped) if broken.len() > max_skipped => Err(DataError::TooManyBroken {
                skipped: broken.len(),
                max_skipped,
                error: Box::new(all()),
            }),
            Broken::Skip(_) => {
                warnings.push(format!(
                    "skips {} broken of {len} records and uses the next one instead:{}",
                    broken.len(),
                    first_problems(&record_problems)
                ));
                Ok((broken, warnings))
            }
        }
    }
}
