//! One file of a dataset: its records without those of the skip list.

use std::{ops::Range, sync::Arc};

use serde_json::Value;

use super::{LlavaJsonConfig, record::Record};
use crate::{
    error::DataError,
    image::ImageSource,
    problem::Problem,
    record_file::{RecordError, RecordFile, file_problem},
    skip_list::SkipList,
};

/// Start of the reason of [`Record::check`] for an image file that does not exist.
const NO_IMAGE: &str = "there is no file ";

/// Reason against a file that a skip list does not know.
pub(crate) const NOT_LISTED: &str =
    "is not in the skip list, or was changed after the list was written: write the list again with `neva-run data check`";

/// A record file in a dataset.
#[derive(Debug)]
pub(super) struct RecordSource {
    file: RecordFile,
    /// Path of the file, for messages.
    name: Arc<str>,
    /// Source of the records' images.
    images: Arc<ImageSource>,
    /// Dataset index of the first record.
    first: usize,
    /// Indices of the records that are left out, in ascending order.
    skipped: Vec<usize>,
}

impl RecordSource {
    /// Prepares a file whose first record has the dataset index `first`.
    ///
    /// # Errors
    /// Returns the problem of a file that the skip list does not know.
    pub(super) fn new(
        file: RecordFile,
        images: Arc<ImageSource>,
        skip_list: &Option<Arc<SkipList>>,
        first: usize,
    ) -> Result<Self, Problem> {
        let path = file.path();
        let skipped = match skip_list {
            None => Vec::new(),
            Some(list) => {
                let known = list
                    .of(&file.fingerprint())
                    .ok_or_else(|| file_problem(path, NOT_LISTED.to_owned()))?;
                let indices = known.skipped.keys().filter_map(|index| usize::try_from(*index).ok());
                indices.filter(|index| *index < file.len()).collect()
            }
        };
        Ok(Self {
            name: path.display().to_string().into(),
            images,
            file,
            first,
            skipped,
        })
    }

    /// Adds the content of the file and the records that are left out.
    pub(super) fn identify(&self, hasher: &mut blake3::Hasher) {
        hasher.update(self.file.fingerprint().as_bytes());
        for index in &self.skipped {
            hasher.update(&(*index as u64).to_le_bytes());
        }
    }

    /// Returns the dataset index of the first record.
    pub(super) fn first(&self) -> usize {
        self.first
    }

    /// Returns the number of records that are not left out.
    pub(super) fn len(&self) -> usize {
        self.file.len() - self.skipped.len()
    }

    /// Returns the number of records that are left out.
    pub(super) fn num_skipped(&self) -> usize {
        self.skipped.len()
    }

    /// Returns the index in the file of the `number`-th record that is not left out.
    pub(super) fn record_index(&self, number: usize) -> usize {
        // `skipped[i] - i` records before `skipped[i]` are not left out.
        let (mut low, mut high) = (0, self.skipped.len());
        while low < high {
            let middle = low.midpoint(high);
            if self.skipped.get(middle).is_some_and(|skipped| skipped - middle <= number) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        number + low
    }

    /// Returns the number of records in the file, those that are left out included.
    pub(super) fn file_len(&self) -> usize {
        self.file.len()
    }

    /// Calls `visit` with number, index in the file and value of each record in a range of file indices that is not left
    /// out, until it returns `false`.
    pub(super) fn each(
        &self,
        records: Range<usize>,
        mut visit: impl FnMut(usize, usize, Result<Value, String>) -> bool,
    ) -> Result<(), Problem> {
        let before = self.skipped.partition_point(|skipped| *skipped < records.start);
        let mut skipped = self.skipped.iter().skip(before).copied().peekable();
        let mut number = records.start - before;
        let visited = self.file.each_of(records, |index, value| {
            if skipped.next_if_eq(&index).is_some() {
                return true;
            }
            number += 1;
            visit(number - 1, index, value)
        });
        visited.map_err(|error| file_problem(self.file.path(), format!("cannot be read: {error}")))
    }

    /// Reads the record at `index` in the file. The inner error is that of a record that is not JSON.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(super) fn value(&self, index: usize) -> Result<Result<Value, String>, DataError> {
        match self.file.value(index) {
            Ok(value) => Ok(Ok(value)),
            Err(RecordError::Content(reason)) => Ok(Err(reason)),
            Err(RecordError::Read(error)) => Err(DataError::Read {
                path: self.file.path().to_owned(),
                error,
            }),
        }
    }

    /// Validates the record at `index` in the file. Appends its problems, and returns `None` if there is any.
    pub(super) fn check(
        &self,
        index: usize,
        value: Result<Value, String>,
        config: &LlavaJsonConfig,
        problems: &mut Vec<Problem>,
    ) -> Option<Record> {
        let mut report = |id: Option<&str>, field, reason| {
            problems.push(Problem {
                file: Arc::clone(&self.name),
                record: Some(index),
                id: id.map(str::to_owned),
                field,
                reason,
            });
        };
        let value = value.map_err(|reason| report(None, None, reason)).ok()?;
        let mut record = config.check_record(value, self.file.form(), &self.images, true, &mut report)?;
        record.name = format!("{}#{index}{}", self.name, record.name);
        Some(record)
    }

    /// Refuses to call an image missing if the whole folder of images is.
    ///
    /// # Errors
    /// An image is missing, and the folder does not exist.
    pub(super) fn require_folder(&self, problems: &[Problem]) -> Result<(), DataError> {
        match self.images.missing_folder() {
            Some(folder) if problems.iter().any(lacks_image) => Err(DataError::NoImageFolder { folder: folder.to_owned() }),
            _ => Ok(()),
        }
    }

    /// Returns the name of the sample of a record, with its id if it has one.
    pub(super) fn record_name(&self, index: usize) -> String {
        let id = match self.file.value(index).ok().as_ref().and_then(|value| value.get("id")) {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(id)) => format!(" (id {id})"),
            Some(other) => format!(" (id {other})"),
        };
        format!("{}#{index}{id}", self.name)
    }
}

/// Returns whether the problem is an image file that does not exist.
pub(super) fn lacks_image(problem: &Problem) -> bool {
    problem.reason.starts_with(NO_IMAGE)
}
