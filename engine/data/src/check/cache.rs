//! Results of earlier checks. A result is reused if the contents of all data files, the settings, and sizes and times of
//! all image files are the same.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use serde_json::json;
use tempfile::TempDir;

use super::{
    image_files::state,
    options::CheckOptions,
    outputs::IMAGES,
    probe::{Probe, Source},
    report::{CheckReport, FORMAT},
};

/// Name of the report in a folder of the cache.
const REPORT: &str = "report.json";

/// Number of results that are kept.
const KEPT: usize = 32;

/// The place of one result.
pub(super) struct Entry {
    pub(super) folder: PathBuf,
}

impl Entry {
    /// Returns the place for this check, or `None` if there is no cache or a file cannot be read.
    pub(super) fn of(probe: &Probe, sources: &[Source], options: &CheckOptions) -> Option<Self> {
        let cache = options.cache.as_ref()?;
        let fingerprints: Option<Vec<_>> = sources.iter().map(Source::fingerprint).collect();
        let files: Vec<_> = sources.iter().map(|source| json!([*source.name, source.is_validation])).collect();
        let here = std::path::absolute(".").ok()?;
        let skip: Vec<_> = options.skip.iter().map(|kind| kind.name()).collect();
        let key = json!([
            FORMAT,
            probe.key(),
            files,
            fingerprints?,
            here,
            options.images.name(),
            options.first,
            skip
        ]);
        let name = blake3::hash(key.to_string().as_bytes()).to_hex();
        Some(Self {
            folder: cache.join(name.get(..32)?),
        })
    }

    /// Returns the result if no image has changed. `workers` threads look at the images.
    pub(super) fn load(&self, workers: usize) -> Option<CheckReport> {
        let report = fs::read(self.folder.join(REPORT)).ok()?;
        let report: CheckReport = serde_json::from_slice(&report).ok()?;
        if report.format != FORMAT || !images_are_unchanged(&self.folder.join(IMAGES), workers) {
            return None;
        }
        // The latest use decides which results are kept.
        let _ = File::open(&self.folder).and_then(|folder| folder.set_modified(std::time::SystemTime::now()));
        Some(report)
    }

    /// Keeps a result with its files. A cache that cannot be written costs time, and no more.
    pub(super) fn store(&self, report: &CheckReport, files: TempDir) {
        let Ok(text) = serde_json::to_vec(report) else { return };
        if fs::write(files.path().join(REPORT), text).is_err() {
            return;
        }
        // An older result of images that have changed.
        let _ = fs::remove_dir_all(&self.folder);
        let staged = files.keep();
        if fs::rename(&staged, &self.folder).is_err() {
            let _ = fs::remove_dir_all(&staged);
        }
        if let Some(cache) = self.folder.parent() {
            prune(cache);
        }
    }
}

/// Returns whether all listed images have the listed sizes and times.
fn images_are_unchanged(list: &Path, workers: usize) -> bool {
    let Ok(list) = File::open(list) else { return false };
    let lines = Mutex::new(BufReader::new(list).lines());
    let same = AtomicBool::new(true);
    let next = || lines.lock().unwrap_or_else(PoisonError::into_inner).next();
    let compare = || {
        while same.load(Ordering::Relaxed)
            && let Some(line) = next()
        {
            let line = line
                .ok()
                .and_then(|line| serde_json::from_str::<(PathBuf, Option<(u64, u64)>)>(&line).ok());
            if line.is_none_or(|(path, known)| state(&path) != known) {
                same.store(false, Ordering::Relaxed);
            }
        }
    };
    thread::scope(|scope| {
        for _ in 1..workers {
            scope.spawn(compare);
        }
        compare();
    });
    same.into_inner()
}

/// Removes all but the latest results.
fn prune(cache: &Path) {
    let Ok(entries) = fs::read_dir(cache) else { return };
    let mut results: Vec<_> = entries
        .flatten()
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .filter(|(_, path)| path.join(REPORT).is_file())
        .collect();
    results.sort();
    let excess = results.len().saturating_sub(KEPT);
    for (_, path) in results.into_iter().take(excess) {
        let _ = fs::remove_dir_all(path);
    }
}
