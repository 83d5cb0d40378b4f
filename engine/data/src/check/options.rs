//! Options and progress of a check.

use std::path::PathBuf;

use super::kind::Kind;

/// Thoroughness of the check of images.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ImageCheck {
    /// Image files are not looked at.
    Skip,
    /// Existence, format, size, beginning and end of each file. An unusual file is decoded.
    #[default]
    Header,
    /// Every image is decoded.
    Decode,
}

impl ImageCheck {
    /// Returns the name, as in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Skip => "skipped",
            Self::Header => "header",
            Self::Decode => "decoded",
        }
    }
}

/// Options of [`check`](super::check()).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckOptions {
    /// Number of threads; 0 uses all cores.
    pub workers: usize,
    /// Thoroughness of the check of images.
    pub images: ImageCheck,
    /// Number of problems of each kind that are reported in full.
    pub first: usize,
    /// Warnings whose records the skip list has, too. It always has the records with errors.
    pub skip: Vec<Kind>,
    /// File for the skip list.
    pub skip_list: Option<PathBuf>,
    /// File for the length index.
    pub length_index: Option<PathBuf>,
    /// Folder with the results of earlier checks. `None`: no result is kept or reused.
    pub cache: Option<PathBuf>,
    /// Folder with the saved indices of data files, as [`RecordFile::open`](crate::RecordFile::open) takes it.
    pub indices: Option<PathBuf>,
}

impl Default for CheckOptions {
    fn default() -> Self {
        Self {
            workers: 0,
            images: ImageCheck::default(),
            first: 5,
            skip: Vec::new(),
            skip_list: None,
            length_index: None,
            cache: None,
            indices: None,
        }
    }
}

/// Progress of a check.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CheckProgress {
    /// Number of checked records.
    pub records: u64,
    /// Number of all records.
    pub total: u64,
    /// Number of errors.
    pub errors: u64,
    /// Number of warnings.
    pub warnings: u64,
}
