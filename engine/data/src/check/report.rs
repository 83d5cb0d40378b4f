//! Result of a check.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::totals::{ImageReport, KindReport, LengthReport};

/// Format number of [`CheckReport`].
pub(super) const FORMAT: u32 = 1;

/// Result of a check of all data of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckReport {
    /// Format number of this document.
    pub format: u32,
    /// Number of records.
    pub records: u64,
    /// Number of records with an error.
    pub broken_records: u64,
    /// Number of errors.
    pub errors: u64,
    /// Number of warnings.
    pub warnings: u64,
    /// The data files.
    pub files: Vec<FileReport>,
    /// Images.
    pub images: ImageReport,
    /// Lengths of samples.
    pub lengths: LengthReport,
    /// Sentences on records that the training takes with a change.
    pub notes: Vec<String>,
    /// Problems by kind, errors first.
    pub problems: Vec<KindReport>,
    /// Number of records in the skip list.
    pub skipped: u64,
    /// The skip list, if one was written.
    pub skip_list: Option<PathBuf>,
    /// The length index, if one was written.
    pub length_index: Option<PathBuf>,
    /// An earlier check of the same data is the source.
    pub cached: bool,
    /// Number of threads of the check.
    pub workers: usize,
    /// Seconds that the check took.
    pub seconds: f64,
}

/// A checked data file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileReport {
    /// The file, as the recipe names it.
    pub file: String,
    /// True for validation data.
    pub is_validation: bool,
    /// Number of records that were found.
    pub records: u64,
    /// BLAKE3 hash of its contents; `None` for a pipe or a file that cannot be read.
    pub fingerprint: Option<String>,
}
