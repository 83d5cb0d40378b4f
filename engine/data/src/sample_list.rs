//! A list of samples by name: those that a run leaves out. `neva-run data check` writes it for Energon datasets.
//!
//! Each line is a JSON object: `{"sample":"shard_0.tar/0001","reason":".."}`.

use std::{collections::BTreeMap, fs, io::Write as _, path::Path, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{error::DataError, sample::Dataset, split::Subset, staged_file::replace_file};

/// Names of samples, with the reasons for which they are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SampleList {
    /// Reason for each name.
    pub samples: BTreeMap<String, String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    sample: String,
    #[serde(default)]
    reason: String,
}

impl SampleList {
    /// Reads a list from a file.
    ///
    /// # Errors
    /// The file cannot be read; or the first invalid line.
    pub fn read(path: &Path) -> Result<Self, DataError> {
        let text = fs::read_to_string(path).map_err(|error| DataError::Read {
            path: path.to_owned(),
            error,
        })?;
        let mut samples = BTreeMap::new();
        for (line, text) in (1..).zip(text.lines()).filter(|(_, text)| !text.trim().is_empty()) {
            let entry: Line = serde_json::from_str(text).map_err(|error| DataError::SkipList {
                path: path.to_owned(),
                line,
                reason: format!("is not {{\"sample\": .., \"reason\": ..}}: {error}"),
            })?;
            samples.insert(entry.sample, entry.reason);
        }
        Ok(Self { samples })
    }

    /// Writes the list to a file, whole or not at all.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), DataError> {
        replace_file(path, |out| {
            for (sample, reason) in &self.samples {
                let line = Line {
                    sample: sample.clone(),
                    reason: reason.clone(),
                };
                serde_json::to_writer(&mut *out, &line)?;
                out.write_all(b"\n")?;
            }
            Ok(())
        })
        .map_err(|error| DataError::Write {
            path: path.to_owned(),
            error,
        })
    }

    /// Returns the indices of the samples of `dataset` that the list does not name.
    #[must_use]
    pub fn kept(&self, dataset: &dyn Dataset) -> Vec<u64> {
        let is_kept = |index: &u64| !self.samples.contains_key(&dataset.name(*index as usize));
        (0..dataset.len() as u64).filter(is_kept).collect()
    }

    /// Returns `dataset` with the samples `kept` alone.
    ///
    /// # Errors
    /// As [`Subset::new`].
    pub fn apply(dataset: Arc<dyn Dataset>, kept: Vec<u64>) -> Result<Arc<dyn Dataset>, DataError> {
        match kept.len() == dataset.len() {
            true => Ok(dataset),
            false => Ok(Arc::new(Subset::new(dataset, kept)?)),
        }
    }
}
