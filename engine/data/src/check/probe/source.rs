//! Data files of a run.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde_json::Value;

use crate::{
    check::kind::Kind,
    image::ImageSource,
    llava::NOT_LISTED,
    record_file::{Form, RecordError, RecordFile},
    skip_list::SkipList,
};

/// A data file of a run.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) path: PathBuf,
    /// Source of the records' images.
    pub(super) images: Arc<ImageSource>,
    /// The path as the recipe names it, for messages.
    pub(crate) name: Arc<str>,
    pub(crate) is_validation: bool,
    /// Records that the recipe's skip list leaves out.
    pub(crate) skipped: BTreeSet<usize>,
    /// Its records; otherwise kind, record and description of the problem of the file.
    pub(crate) records: Result<RecordFile, (Kind, Option<usize>, String)>,
}

impl Source {
    /// Opens the data file at `path`. `indices` is the folder of saved indices.
    pub(super) fn open(
        path: &Path,
        images: Arc<ImageSource>,
        is_validation: bool,
        skip_list: Option<&SkipList>,
        indices: Option<&Path>,
    ) -> Self {
        let mut skipped = BTreeSet::new();
        let records = RecordFile::open(path, indices).map_err(|problem| {
            let kind = file_kind(&problem.reason);
            (kind, problem.record, problem.reason)
        });
        let records = records.and_then(|file| match skip_list.map(|list| list.of(&file.fingerprint())) {
            Some(None) => Err((Kind::Unreadable, None, NOT_LISTED.to_owned())),
            known => {
                let indices = known.flatten().into_iter().flat_map(|known| known.skipped.keys());
                skipped.extend(indices.filter_map(|index| usize::try_from(*index).ok()));
                Ok(file)
            }
        });
        Self {
            path: path.to_owned(),
            images,
            name: path.display().to_string().into(),
            is_validation,
            skipped,
            records,
        }
    }

    /// Returns the form of the file.
    pub(super) fn form(&self) -> Form {
        self.records.as_ref().map_or(Form::List, RecordFile::form)
    }

    /// Returns the number of records.
    pub(crate) fn len(&self) -> usize {
        self.records.as_ref().map_or(0, RecordFile::len)
    }

    /// Returns the hash of the file's contents.
    pub(crate) fn fingerprint(&self) -> Option<String> {
        self.records.as_ref().ok().map(RecordFile::fingerprint)
    }

    /// Reads and parses a record.
    ///
    /// # Errors
    /// Returns the kind of the problem and its description.
    pub(crate) fn value(&self, index: usize) -> Result<Value, (Kind, String)> {
        match &self.records {
            Ok(file) => file.value(index).map_err(|error| match error {
                RecordError::Read(_) => (Kind::Unreadable, error.to_string()),
                RecordError::Content(reason) => (file_kind(&reason), reason),
            }),
            Err((kind, _, reason)) => Err((*kind, reason.clone())),
        }
    }
}

/// Returns the kind of a problem of a file, or of the JSON of a record.
fn file_kind(reason: &str) -> Kind {
    let has = |texts: &[&str]| texts.iter().any(|text| reason.contains(text));
    if has(&["cannot be read", "was changed"]) {
        Kind::Unreadable
    } else if has(&["UTF-8", "UTF-16", "UTF-32"]) && !has(&["surrogate"]) {
        Kind::Encoding
    } else {
        Kind::Json
    }
}
