//! Prepares a folder of shards: indices, numbers of samples, splits and the mapping of parts, as `energon prepare` of
//! megatron-energon 7.4.1 writes them.
//!
//! A shard's result is saved as soon as it is read, so that an interrupted preparation is resumed. The file that makes a
//! dataset a prepared one (`.info.json`) is written last.

mod catalog;
mod scan;
mod shards;
mod splits;
mod text;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use serde::Serialize;

use super::{mapping::Mapping, metadata, shard::index_path, webdataset::META};
use crate::{error::DataError, staged_file::replace_file};
use neva_schemas::SampleLoader;
use scan::ScannedShard;
use shards::find_shards;
use splits::split;

/// Version of Energon's format.
const VERSION: &str = "7.4.1";

/// Folder of the results of single shards, while a preparation runs.
const PARTIAL: &str = ".prepare";

/// Settings of [`prepare`].
#[derive(Clone, Debug)]
pub struct PrepareOptions {
    /// Number of threads; 0 uses one per core.
    pub workers: usize,
    /// Assignment of shards to splits.
    pub split: SplitRule,
    /// Shards (`SHARD`) and samples (`SHARD/KEY`) that training leaves out.
    pub exclude: Vec<String>,
    /// Type and mapping of the samples; none keeps the dataset's `dataset.yaml`.
    pub loader: Option<SampleLoader>,
    /// Writes the indices only, for a dataset whose other metadata exist.
    pub index_only: bool,
    /// Replaces the metadata of a prepared dataset.
    pub force: bool,
}

/// Assignment of shards to splits.
#[derive(Clone, Debug, PartialEq)]
pub enum SplitRule {
    /// Shares of train, val and test. Shards are assigned whole, in the order of their names.
    Ratio([f64; 3]),
    /// Name of a split, and the regular expression that the names of its shards start with.
    Patterns(Vec<(String, String)>),
}

/// Result of a preparation.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Prepared {
    /// Number of shards.
    pub shards: usize,
    /// Number of samples in all shards.
    pub samples: u64,
    /// Number of shards whose results an earlier, interrupted preparation had saved.
    pub resumed: usize,
    /// Names of the parts that samples have.
    pub parts: BTreeSet<String>,
    /// The splits that were written.
    pub splits: Vec<PreparedSplit>,
}

/// A split of a prepared dataset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PreparedSplit {
    /// Its name.
    pub name: String,
    /// Number of its shards.
    pub shards: usize,
    /// Number of the samples in these shards.
    pub samples: u64,
}

/// Progress of a preparation.
#[derive(Clone, Copy, Debug)]
pub struct PrepareProgress {
    /// Number of shards that are read.
    pub done: usize,
    /// Number of shards.
    pub total: usize,
}

/// Error of [`prepare`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PrepareError {
    /// A file cannot be read or written, or is invalid.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The folder has no shards.
    #[error("there is no .tar file in {}", .0.display())]
    NoShards(PathBuf),
    /// The dataset is prepared already.
    #[error("{} is prepared already", .0.display())]
    Exists(PathBuf),
    /// Nothing says what the parts mean.
    #[error("the type of the samples is not known; the first sample has the parts {}", parts.join(", "))]
    NoType {
        /// Parts of the first sample.
        parts: Vec<String>,
    },
    /// Several samples have one key.
    #[error("{count} key(s) occur more than once:{}", examples.iter().map(|example| format!("\n  {example}")).collect::<String>())]
    Duplicates {
        /// Number of keys.
        count: usize,
        /// The first ones, with their shards.
        examples: Vec<String>,
    },
    /// A split that is not possible.
    #[error("{0}")]
    Split(String),
    /// The table of samples cannot be written.
    #[error("cannot write {}: {error}", path.display())]
    Catalog {
        /// The file.
        path: PathBuf,
        /// Error of SQLite.
        error: rusqlite::Error,
    },
    /// The caller asked to stop.
    #[error("stopped after {done} of {total} shards; the same command resumes")]
    Stopped {
        /// Number of shards that are read and saved.
        done: usize,
        /// Number of shards.
        total: usize,
    },
}

/// Prepares the dataset in `root`.
///
/// # Errors
/// Returns an error if there are no shards, a shard is broken, keys occur more than once, or a file cannot be written.
/// Shards that were read stay saved.
pub fn prepare(
    root: &Path,
    options: &PrepareOptions,
    progress: &mut (dyn FnMut(PrepareProgress) + Send),
    is_stopped: &(dyn Fn() -> bool + Sync),
) -> Result<Prepared, PrepareError> {
    let meta = root.join(META);
    let is_prepared = meta.join(".info.json").exists() || meta.join(".info.yaml").exists();
    if options.index_only && !is_prepared {
        let reason = "is not prepared, so there is more to write than the indices: leave out --tar-index-only";
        return Err(metadata::invalid(root, "", reason).into());
    }
    if is_prepared && !options.force && !options.index_only {
        return Err(PrepareError::Exists(root.to_owned()));
    }
    let names = find_shards(root)?;
    let dataset_yaml = meta.join("dataset.yaml");
    let first = names.first().map(|name| root.join(name)).unwrap_or_default();
    match &options.loader {
        Some(loader) => drop(Mapping::of_recipe("dataset", loader, None).map_err(of_options)?),
        None if options.index_only || dataset_yaml.exists() => {}
        None => {
            return Err(PrepareError::NoType {
                parts: scan::first_parts(&first)?,
            });
        }
    }
    let splits = split(&names, &options.split)?;
    let partial = meta.join(PARTIAL);
    fs::create_dir_all(&partial).map_err(|error| written(&partial, error))?;
    let (shards, resumed) = scan_all(root, &names, &partial, options.workers, progress, is_stopped)?;
    check_duplicates(&shards)?;

    for shard in &shards {
        let path = index_path(&root.join(&shard.name));
        write(&path, |out| {
            shard.offsets().try_for_each(|offset| out.write_all(&offset.to_le_bytes()))
        })?;
    }
    let catalog = meta.join("index.sqlite");
    catalog::write(&catalog, &shards)?;
    let uuid = text::uuid(&shards);
    write(&meta.join("index.uuid"), |out| out.write_all(uuid.as_bytes()))?;
    if !options.index_only {
        if let Some(loader) = &options.loader {
            let yaml = text::dataset_yaml(loader);
            write(&dataset_yaml, |out| out.write_all(yaml.as_bytes()))?;
        }
        let yaml = text::split_yaml(&splits, &options.exclude);
        write(&meta.join("split.yaml"), |out| out.write_all(yaml.as_bytes()))?;
        let info = text::info_json(&shards, VERSION);
        write(&meta.join(".info.json"), |out| out.write_all(info.as_bytes()))?;
        // Readers prefer the new form; an old one would differ.
        let legacy = meta.join(".info.yaml");
        if legacy.exists() {
            fs::remove_file(&legacy).map_err(|error| written(&legacy, error))?;
        }
    }
    fs::remove_dir_all(&partial).map_err(|error| written(&partial, error))?;
    let counts: BTreeMap<&str, u64> = shards
        .iter()
        .map(|shard| (shard.name.as_str(), shard.samples.len() as u64))
        .collect();
    let of_split = |(name, shards): &(String, Vec<String>)| PreparedSplit {
        name: name.clone(),
        shards: shards.len(),
        samples: shards.iter().filter_map(|shard| counts.get(shard.as_str())).sum(),
    };
    Ok(Prepared {
        shards: shards.len(),
        samples: counts.values().sum(),
        resumed,
        parts: shards.iter().flat_map(|shard| shard.part_names()).take(50).collect(),
        // `split.yaml` stays as it is.
        splits: splits.iter().filter(|_| !options.index_only).map(of_split).collect(),
    })
}

/// Names the options in an error about the mapping of a recipe.
fn of_options(error: DataError) -> DataError {
    match error {
        DataError::Energon { field, reason, .. } => {
            let option = match field.strip_prefix("field_map") {
                Some(_) => "--field-map",
                None => "--sample-type",
            };
            metadata::invalid(Path::new(option), field.trim_start_matches("field_map."), reason)
        }
        error => error,
    }
}

fn written(path: &Path, error: io::Error) -> PrepareError {
    DataError::Write {
        path: path.to_owned(),
        error,
    }
    .into()
}

fn write(path: &Path, content: impl FnOnce(&mut io::BufWriter<fs::File>) -> io::Result<()>) -> Result<(), PrepareError> {
    replace_file(path, content).map_err(|error| written(path, error))
}

use std::io::Write as _;

/// Reads all shards, or their saved results.
fn scan_all(
    root: &Path,
    names: &[String],
    partial: &Path,
    workers: usize,
    progress: &mut (dyn FnMut(PrepareProgress) + Send),
    is_stopped: &(dyn Fn() -> bool + Sync),
) -> Result<(Vec<ScannedShard>, usize), PrepareError> {
    let workers = match workers {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        workers => workers,
    };
    let total = names.len();
    let (next, resumed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let results: Mutex<BTreeMap<usize, ScannedShard>> = Mutex::new(BTreeMap::new());
    let failure: Mutex<Option<DataError>> = Mutex::new(None);
    let progress = Mutex::new(progress);
    let work = || {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let has_failed = failure.lock().unwrap_or_else(PoisonError::into_inner).is_some();
            let Some(name) = names.get(index).filter(|_| !has_failed && !is_stopped()) else {
                return;
            };
            match scan::shard(
                root,
                name,
                &partial.join(format!("{}.json", blake3::hash(name.as_bytes()).to_hex())),
            ) {
                Ok((shard, is_saved)) => {
                    resumed.fetch_add(usize::from(is_saved), Ordering::Relaxed);
                    let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
                    results.insert(index, shard);
                    let done = results.len();
                    drop(results);
                    let mut progress = progress.lock().unwrap_or_else(PoisonError::into_inner);
                    progress(PrepareProgress { done, total });
                }
                Err(error) => {
                    failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                    return;
                }
            }
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (1..workers.min(total)).map(|_| scope.spawn(work)).collect();
        work();
        // A panic of a thread leaves its shard out, which is reported below.
        threads.into_iter().for_each(|thread| drop(thread.join()));
    });
    if let Some(error) = failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(error.into());
    }
    let results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    if results.len() < total {
        return Err(PrepareError::Stopped {
            done: results.len(),
            total,
        });
    }
    Ok((results.into_values().collect(), resumed.into_inner()))
}

/// Number of duplicate keys that an error names.
const LISTED: usize = 10;

fn check_duplicates(shards: &[ScannedShard]) -> Result<(), PrepareError> {
    let mut first: BTreeMap<&str, &str> = BTreeMap::new();
    let mut examples: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for shard in shards {
        for sample in &shard.samples {
            if let Some(other) = first.insert(&sample.key, &shard.name) {
                examples.entry(&sample.key).or_insert_with(|| vec![other]).push(&shard.name);
            }
        }
    }
    if examples.is_empty() {
        return Ok(());
    }
    let text = |(key, shards): (&&str, &Vec<&str>)| format!("{key} in {}", shards.join(", "));
    Err(PrepareError::Duplicates {
        count: examples.len(),
        examples: examples.iter().take(LISTED).map(text).collect(),
    })
}
