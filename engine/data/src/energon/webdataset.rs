//! A prepared dataset: shards, and their metadata in `.nv-meta`.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde_json::Value as Json;

use super::{
    metadata::{Section, invalid, read},
    raw_sample::RawSample,
    shard::Shard,
    split_parts::read_split,
};
use crate::error::DataError;

/// Folder of the metadata within a dataset.
pub(super) const META: &str = ".nv-meta";

/// The samples of one split of a prepared dataset.
#[derive(Debug)]
pub(super) struct Webdataset {
    root: PathBuf,
    shards: Vec<Arc<Shard>>,
    /// Index of the first sample of each shard.
    firsts: Vec<u64>,
    len: u64,
    /// Indices of the samples that `exclude` names, sorted.
    excluded: Vec<u64>,
}

impl Webdataset {
    /// Opens the split `part` of the dataset in `root`. `None`: the dataset has no such split, or the split has no shards.
    ///
    /// # Errors
    /// The metadata, a shard or an index is missing or invalid.
    pub(super) fn open(root: &Path, part: &str, split_config: Option<&str>) -> Result<Option<Self>, DataError> {
        let folder = root.join(META);
        let (info_path, counts) = shard_counts(&folder)?;
        let Some(split) = read_split(&folder, split_config, part)? else {
            return Ok(None);
        };
        let (mut shards, mut firsts, mut len) = (Vec::new(), Vec::new(), 0u64);
        for name in &split.shards {
            if name.ends_with(".tgz") || name.ends_with(".tar.gz") {
                let reason =
                    "is compressed: samples within it cannot be read in any order; unpack it with `gunzip` and prepare the dataset again";
                return Err(invalid(&root.join(name), "", reason));
            }
            let Some(count) = counts.get(name) else {
                let reason = format!("has no number of samples of {name}, which the split {part} names: prepare the dataset again");
                return Err(invalid(&info_path, "shard_counts", reason));
            };
            shards.push(Arc::new(Shard::open(root.join(name), *count)?));
            firsts.push(len);
            len += count;
        }
        let mut set = Self {
            root: root.to_owned(),
            shards,
            firsts,
            len,
            excluded: Vec::new(),
        };
        for (shard, first) in set.shards.iter().zip(&set.firsts) {
            let name = shard.path.strip_prefix(root).unwrap_or(&shard.path).display().to_string();
            let start = format!("{name}/");
            if !split.excluded.iter().any(|excluded| excluded.starts_with(&start)) {
                continue;
            }
            for sample in 0..shard.offsets().len().saturating_sub(1) {
                if split.excluded.contains(&format!("{name}/{}", shard.key(sample)?)) {
                    set.excluded.push(first + sample as u64);
                }
            }
        }
        Ok(Some(set).filter(|set| set.len > 0))
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn excluded(&self) -> &[u64] {
        &self.excluded
    }

    fn place(&self, index: u64) -> Result<(&Arc<Shard>, usize), DataError> {
        let at = self.firsts.partition_point(|first| *first <= index);
        let found = at.checked_sub(1).filter(|_| index < self.len);
        match found.and_then(|at| Some((self.shards.get(at)?, self.firsts.get(at)?))) {
            Some((shard, first)) => Ok((shard, (index - first) as usize)),
            None => Err(DataError::Index {
                index: index as usize,
                len: self.len as usize,
            }),
        }
    }

    pub(super) fn raw(&self, index: u64) -> Result<RawSample, DataError> {
        let (shard, sample) = self.place(index)?;
        RawSample::of_shard(shard, sample, &self.root)
    }

    /// Returns the key of each sample, with its index. Used by joins.
    pub(super) fn keys(&self) -> Result<BTreeMap<String, u64>, DataError> {
        let mut keys = BTreeMap::new();
        for (shard, first) in self.shards.iter().zip(&self.firsts) {
            for sample in 0..shard.offsets().len().saturating_sub(1) {
                let key = shard.key(sample)?;
                if keys.contains_key(&key) {
                    let reason = format!("has the sample {key}, as another shard: join needs keys that occur once");
                    return Err(invalid(&shard.path, "", reason));
                }
                keys.insert(key, first + sample as u64);
            }
        }
        Ok(keys)
    }

    pub(super) fn name(&self, index: u64) -> String {
        match self.place(index) {
            Ok((shard, sample)) => {
                let path = shard.path.strip_prefix(&self.root).unwrap_or(&shard.path);
                match shard.key(sample) {
                    Ok(key) => format!("{}: sample {key}", path.display()),
                    Err(_) => format!("{}: sample number {sample}", path.display()),
                }
            }
            Err(error) => error.to_string(),
        }
    }

    pub(super) fn identify(&self, hasher: &mut blake3::Hasher) {
        for shard in &self.shards {
            let name = shard.path.strip_prefix(&self.root).unwrap_or(&shard.path);
            hasher.update(name.display().to_string().as_bytes());
            shard.offsets().iter().for_each(|offset| {
                hasher.update(&offset.to_le_bytes());
            });
        }
        self.excluded.iter().for_each(|index| {
            hasher.update(&index.to_le_bytes());
        });
    }
}

/// Returns the number of samples of each shard, with the file that says so.
pub(super) fn shard_counts(folder: &Path) -> Result<(PathBuf, BTreeMap<String, u64>), DataError> {
    let (json, yaml) = (folder.join(".info.json"), folder.join(".info.yaml"));
    let path = if !json.exists() && yaml.exists() { yaml } else { json };
    if !path.exists() {
        let root = folder.parent().unwrap_or(folder);
        let reason = format!(
            "does not exist, so the dataset is not prepared: run `neva-run data prepare {}`",
            root.display()
        );
        return Err(invalid(&path, "", reason));
    }
    let value = read(&path)?;
    let file = Section::new(&path, "", &value)?;
    let Some(counts) = file.get("shard_counts") else {
        return Err(file.invalid("shard_counts", "is missing: prepare the dataset again"));
    };
    let counts = Section::new(&path, "shard_counts", counts)?;
    let count = |(name, value): (&String, &Json)| match value.as_u64().filter(|count| *count < 1 << 40) {
        Some(count) => Ok((name.clone(), count)),
        None => Err(counts.invalid(name, format!("is {value}, it must be a number of samples"))),
    };
    let counts = counts.fields.iter().map(count).collect::<Result<_, _>>()?;
    Ok((path, counts))
}
