//! Samples and parts of one shard, and the file that saves them while a preparation runs.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Write as _},
    path::Path,
    time::UNIX_EPOCH,
};

use serde::{Deserialize, Serialize};

use super::super::{metadata::invalid, shard::members, tar_walk::WalkError};
use crate::{error::DataError, staged_file::replace_file};

/// Samples of a shard.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct ScannedShard {
    /// Path relative to the dataset.
    pub(super) name: String,
    /// Size and time of change of the file that was read.
    size: u64,
    modified: u128,
    pub(super) samples: Vec<ScannedSample>,
    /// End of the last sample.
    end: u64,
}

/// A sample of a shard.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct ScannedSample {
    pub(super) key: String,
    /// Position of its first header.
    pub(super) start: u64,
    /// Name, position and size of each part.
    pub(super) parts: Vec<(String, u64, u64)>,
}

impl ScannedShard {
    /// Returns the start of each sample, and the end of the last one.
    pub(super) fn offsets(&self) -> impl Iterator<Item = u64> {
        self.samples.iter().map(|sample| sample.start).chain([self.end])
    }

    /// Returns the names of the parts.
    pub(super) fn part_names(&self) -> BTreeSet<String> {
        // The first samples show what there is.
        let parts = self.samples.iter().take(100).flat_map(|sample| &sample.parts);
        parts.map(|(name, ..)| name.clone()).collect()
    }
}

/// Returns the samples of a shard, and whether an earlier preparation had saved them in `saved`.
pub(super) fn shard(root: &Path, name: &str, saved: &Path) -> Result<(ScannedShard, bool), DataError> {
    let path = root.join(name);
    let (size, modified) = stamp(&path)?;
    let earlier = fs::read(saved)
        .ok()
        .and_then(|bytes| serde_json::from_slice::<ScannedShard>(&bytes).ok());
    if let Some(shard) = earlier.filter(|shard| shard.name == name && (shard.size, shard.modified) == (size, modified)) {
        return Ok((shard, true));
    }
    let (samples, end) = read(&path, size, usize::MAX)?;
    if samples.is_empty() {
        return Err(invalid(
            &path,
            "",
            "has no sample: its files need names such as KEY.jpg; remove the shard, or fill it",
        ));
    }
    let shard = ScannedShard {
        name: name.to_owned(),
        size,
        modified,
        samples,
        end,
    };
    let written = replace_file(saved, |out| {
        serde_json::to_writer(&mut *out, &shard)?;
        out.flush()
    });
    written.map_err(|error| DataError::Write {
        path: saved.to_owned(),
        error,
    })?;
    Ok((shard, false))
}

/// Returns the names of the parts of a shard's first sample.
pub(super) fn first_parts(path: &Path) -> Result<Vec<String>, DataError> {
    let (size, _) = stamp(path)?;
    let (samples, _) = read(path, size, 1)?;
    let parts = samples.into_iter().next().map(|sample| sample.parts).unwrap_or_default();
    Ok(parts.into_iter().map(|(name, ..)| name).collect())
}

fn stamp(path: &Path) -> Result<(u64, u128), DataError> {
    let metadata = path.metadata().map_err(|error| DataError::Read {
        path: path.to_owned(),
        error,
    })?;
    let modified = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    Ok((metadata.len(), modified.map_or(0, |time| time.as_nanos())))
}

/// Reads up to `limit` samples, and the end of the last one.
fn read(path: &Path, size: u64, limit: usize) -> Result<(Vec<ScannedSample>, u64), DataError> {
    let failed = |error: io::Error| DataError::Read {
        path: path.to_owned(),
        error,
    };
    let mut walk = members(File::open(path).map_err(failed)?, size);
    let mut samples: Vec<ScannedSample> = Vec::new();
    let mut keys = BTreeSet::new();
    loop {
        let member = match walk.next() {
            Ok(Some(member)) => member,
            Ok(None) => return Ok((samples, walk.position())),
            Err(WalkError::Io(error)) => return Err(failed(error)),
            Err(WalkError::Broken(at, reason)) => return Err(invalid(path, &format!("byte {at}"), reason)),
        };
        let Some((key, part)) = member.split() else { continue };
        let part = (part.to_owned(), member.content.start, member.content.end - member.content.start);
        match samples.last_mut().filter(|sample| sample.key == key) {
            Some(sample) => sample.parts.push(part),
            None => {
                if samples.len() == limit {
                    return Ok((samples, member.start));
                }
                if !keys.insert(key.to_owned()) {
                    let reason = format!(
                        "has files of the sample {key} in two places: pack the files of a sample one after the other (`tar --sort=name`)"
                    );
                    return Err(invalid(path, &format!("byte {}", member.start), reason));
                }
                samples.push(ScannedSample {
                    key: key.to_owned(),
                    start: member.start,
                    parts: vec![part],
                });
            }
        }
    }
}
