//! References to datasets: their fields, paths and names.

use std::path::{Path, PathBuf};

use super::{
    leaf::{Leaf, Source},
    mapping::{Mapping, SETTING},
    metadata::{Section, invalid},
    mixture::Mixture,
    subset::SampleRange,
};
use crate::error::DataError;

/// Fields of a reference to a dataset.
pub(super) const REFERENCE: &[&str] = &[
    "path",
    "split_part",
    "subflavors",
    "shuffle_over_epochs_multiplier",
    "dataset_config",
    "split_config",
    "aux",
    "subset",
    "weight",
    "repetitions",
    "nonmatch",
];

/// Returns the path that a section names, relative to its file.
pub(super) fn target(section: &Section<'_>) -> Result<PathBuf, DataError> {
    let text = section.text("path")?.unwrap_or_default();
    if text.is_empty() {
        return Err(section.invalid("path", "is empty: name a dataset"));
    }
    if text.contains("://") {
        return Err(section.invalid(
            "path",
            format!("{text} is an address: copy the dataset to a folder that all ranks see, and name it"),
        ));
    }
    let path = section.path.parent().unwrap_or(Path::new("")).join(text);
    match path.exists() {
        true => Ok(path),
        false => Err(section.invalid("path", format!("there is no {}", path.display()))),
    }
}

/// Creates a mixture of one dataset.
pub(super) fn leaf(path: &Path, source: Source, mapping: Mapping, subset: SampleRange) -> Result<Mixture, DataError> {
    let len = source.len();
    match Leaf::new(source, mapping, subset) {
        Some(leaf) => Ok(Mixture::one(leaf)),
        None => Err(invalid(
            path,
            "subset.range",
            format!("leaves the dataset, which has {len} samples"),
        )),
    }
}

/// Returns the name of a dataset in the recipe: that of its folder.
pub(super) fn dataset_name(root: &Path) -> String {
    let name = root.file_name().map(|name| name.to_string_lossy().into_owned());
    let resolved = || Some(root.canonicalize().ok()?.file_name()?.to_string_lossy().into_owned());
    name.filter(|name| !name.is_empty()).or_else(resolved).unwrap_or_default()
}

/// Returns the error of a `.jsonl` file without a mapping.
pub(super) fn lines_need_mapping(path: &Path, name: &str) -> DataError {
    let reason = format!(
        "is a crude dataset, which Python code cooks: write the mapping in the recipe, `{}: {{{name}: {{sample_type: TextSample, \
         field_map: {{text: \"json[text]\"}}}}}}`",
        SETTING
    );
    invalid(path, "", reason)
}

/// Rejects the multiplier of Energon's shuffling: here an epoch has every sample once.
pub(super) fn check_multiplier(section: &Section<'_>) -> Result<(), DataError> {
    match section.get("shuffle_over_epochs_multiplier") {
        None => Ok(()),
        Some(value) if value.as_i64() == Some(1) => Ok(()),
        Some(value) => Err(section.invalid(
            "shuffle_over_epochs_multiplier",
            format!("is {value}, but each epoch is shuffled on its own, so that a run resumes anywhere: remove it"),
        )),
    }
}
