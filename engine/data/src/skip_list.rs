//! The skip list: records that training leaves out. `neva-run data check` writes it.
//!
//! It is a JSON Lines file. A line with `file` states that a data file was checked; the lines after it name its skipped
//! records:
//!
//! ```json
//! {"file":"/data/train.json","fingerprint":"6f1d..","records":80000}
//! {"fingerprint":"6f1d..","record":17,"reason":"image: cat.jpg is truncated"}
//! ```
//!
//! Lists can be concatenated. The fingerprint is that of [`RecordFile::fingerprint`](crate::RecordFile::fingerprint), so a
//! list never applies to another version of a file.

use std::{collections::BTreeMap, fs, io::Write as _, path::Path};

use serde::{Deserialize, Serialize};

use crate::{error::DataError, staged_file::replace_file};

/// Skipped records by data file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SkipList {
    files: BTreeMap<String, SkippedRecords>,
}

/// Skipped records of one data file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SkippedRecords {
    /// Path of the file when it was checked, for messages.
    pub file: String,
    /// Number of its records, skipped ones included.
    pub records: u64,
    /// Index of each skipped record, from 0, with the reason.
    pub skipped: BTreeMap<u64, String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    file: Option<String>,
    fingerprint: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    records: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    record: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

impl SkipList {
    /// Adds a data file, with its content fingerprint and its skipped records.
    pub fn insert(&mut self, fingerprint: impl Into<String>, records: SkippedRecords) {
        self.files.insert(fingerprint.into(), records);
    }

    /// Returns the skipped records of the data file with this fingerprint. `None`: the list does not know the file.
    #[must_use]
    pub fn of(&self, fingerprint: &str) -> Option<&SkippedRecords> {
        self.files.get(fingerprint)
    }

    /// Returns the number of skipped records of all data files.
    #[must_use]
    pub fn skipped(&self) -> usize {
        self.files.values().map(|file| file.skipped.len()).sum()
    }

    /// Reads a list from a file.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read, or names its first invalid line.
    pub fn read(path: &Path) -> Result<Self, DataError> {
        let text = fs::read_to_string(path).map_err(|error| DataError::Read {
            path: path.to_owned(),
            error,
        })?;
        let mut files: BTreeMap<String, SkippedRecords> = BTreeMap::new();
        for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
            let invalid = |reason: String| DataError::SkipList {
                path: path.to_owned(),
                line: number,
                reason,
            };
            let line: Line = serde_json::from_str(line).map_err(|error| invalid(format!("is not a line of a skip list: {error}")))?;
            match line {
                Line {
                    file: Some(file),
                    fingerprint,
                    records: Some(records),
                    record: None,
                    reason: None,
                } => {
                    let known = files.entry(fingerprint).or_default();
                    (known.file, known.records) = (file, records);
                }
                Line {
                    file: None,
                    fingerprint,
                    records: None,
                    record: Some(record),
                    reason,
                } => {
                    let known = files.get_mut(&fingerprint);
                    let known = known.ok_or_else(|| invalid("names a fingerprint that no earlier line with `file` has".to_owned()))?;
                    if record >= known.records {
                        return Err(invalid(format!("names record {record} of a file of {}", known.records)));
                    }
                    known.skipped.insert(record, reason.unwrap_or_default());
                }
                _ => return Err(invalid("must have `file` and `records`, or `record` and `reason`".to_owned())),
            }
        }
        Ok(Self { files })
    }

    /// Writes the list to a file, whole or not at all.
    ///
    /// # Errors
    /// Returns an error if the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), DataError> {
        replace_file(path, |out| {
            for (fingerprint, known) in &self.files {
                let file = Line {
                    file: Some(known.file.clone()),
                    fingerprint: fingerprint.clone(),
                    records: Some(known.records),
                    record: None,
                    reason: None,
                };
                let skipped = known.skipped.iter().map(|(record, reason)| Line {
                    file: None,
                    fingerprint: fingerprint.clone(),
                    records: None,
                    record: Some(*record),
                    reason: Some(reason.clone()),
                });
                for line in std::iter::once(file).chain(skipped) {
                    serde_json::to_writer(&mut *out, &line)?;
                    out.write_all(b"\n")?;
                }
            }
            Ok(())
        })
        .map_err(|error| DataError::Write {
            path: path.to_owned(),
            error,
        })
    }
}
