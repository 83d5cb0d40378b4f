//! Files of weights in a folder.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use neva_weights::WeightFile;

use super::ImportError;
use crate::hub::{INDEX, PICKLE, PICKLE_INDEX, WEIGHTS, shards};

/// Names of files with weights, and that of their index if they have one.
type WeightFiles = (Vec<String>, Option<&'static str>);

/// Returns the error of a link whose target does not exist, as in a copy of the hub's cache without its blobs.
pub(super) fn dead_link(path: &Path) -> Option<ImportError> {
    let target = std::fs::read_link(path).ok().filter(|_| !path.exists())?;
    Some(ImportError::Content {
        path: path.to_owned(),
        problems: vec![format!("it is a link to {}, which does not exist", target.display())],
        help: Some("copy the folder with the files that its links name: `cp -rL`".to_owned()),
    })
}

/// Returns the names of the files with the weights of a model, and of their index; `None` if the folder has none.
///
/// # Errors
/// An index cannot be read, or names a file that does not exist.
pub(super) fn files(folder: &Path) -> Result<Option<WeightFiles>, ImportError> {
    for (single, index) in [(WEIGHTS, INDEX), (PICKLE, PICKLE_INDEX)] {
        if let Some(error) = [single, index].iter().find_map(|name| dead_link(&folder.join(name))) {
            return Err(error);
        }
        if folder.join(single).is_file() {
            return Ok(Some((vec![single.to_owned()], None)));
        }
        if folder.join(index).is_file() {
            return Ok(Some((of_index(folder, index)?.into_iter().collect(), Some(index))));
        }
    }
    Ok(None)
}

/// Returns whether a folder has a model's weights.
pub(super) fn has_weights(folder: &Path) -> bool {
    [WEIGHTS, INDEX, PICKLE, PICKLE_INDEX]
        .iter()
        .any(|name| folder.join(name).is_file())
}

fn of_index(folder: &Path, name: &str) -> Result<BTreeSet<String>, ImportError> {
    let index = folder.join(name);
    let names = shards(&index).ok_or_else(|| ImportError::content(&index, "it has no valid `weight_map`"))?;
    let missing: Vec<_> = names.iter().filter(|name| !folder.join(name).is_file()).collect();
    let Some((first, rest)) = missing.split_first() else {
        return Ok(names);
    };
    if let Some(error) = dead_link(&folder.join(first)) {
        return Err(error);
    }
    Err(ImportError::Content {
        problems: vec![format!("it names {first}{}, which does not exist", more(rest.len()))],
        help: Some("a file is missing: download or copy the model again".to_owned()),
        path: index,
    })
}

/// Returns ` and N more`; nothing for 0.
pub(super) fn more(count: usize) -> String {
    if count == 0 { String::new() } else { format!(" and {count} more") }
}

/// Opens files of weights.
pub(super) fn open_all(paths: impl Iterator<Item = PathBuf>) -> Result<Vec<WeightFile>, ImportError> {
    paths.map(|path| WeightFile::open(&path).map_err(ImportError::from)).collect()
}

/// Returns the error of a folder without weights.
pub(super) fn none(folder: &Path) -> ImportError {
    ImportError::Content {
        path: folder.to_owned(),
        problems: vec![format!(
            "it has neither {WEIGHTS} nor {INDEX}, nor {PICKLE} with or without an index"
        )],
        help: Some("name the folder with config.json and the weights, or a file of weights beside its config.json".to_owned()),
    }
}
