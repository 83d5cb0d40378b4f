//! Tensors of the run that the export has byte by byte. Files are compared with files: no tensor is in memory.

use super::expected::Expected;
use super::reading::Reading;
use crate::checkpoint::Extent;
use crate::error::Result;
use neva_layout::ParamSpec;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Most threads that compare. More wait for the memory.
const THREADS: usize = 4;

/// A tensor of the run, and all of its places in the export.
struct Pair<'a> {
    name: &'a str,
    own: Extent,
    written: Vec<Extent>,
}

impl<'a> Pair<'a> {
    /// Finds the places of a parameter; `None` if the files do not hold it as a whole.
    fn of(expected: &Expected<'_>, reading: &Reading, spec: &'a ParamSpec) -> Option<Self> {
        let slots = expected.slots_of(&spec.name);
        let written = slots.iter().map(|slot| reading.extent(slot)).collect::<Option<Vec<_>>>()?;
        let own = expected.extent(spec).filter(|_| !written.is_empty())?;
        let name = &spec.name;
        Some(Self { name, own, written })
    }

    fn is_equal(&self, expected: &Expected<'_>) -> Result<bool> {
        for written in &self.written {
            if !expected.is_known_equal(&self.own, written) && !self.own.equals(written, self.name)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Returns the names of the parameters that the reader has with the bytes, the shape and the data type of the run's.
///
/// # Errors
/// A file cannot be read, or such a parameter holds NaN or infinite values.
pub(super) fn unchanged(expected: &Expected<'_>, reading: &Reading) -> Result<BTreeSet<String>> {
    let pairs: Vec<_> = expected.specs.iter().filter_map(|spec| Pair::of(expected, reading, spec)).collect();
    let next = AtomicUsize::new(0);
    let compare = || -> Result<Vec<&str>> {
        let mut equal = Vec::new();
        while let Some(pair) = pairs.get(next.fetch_add(1, Ordering::Relaxed)) {
            equal.extend(pair.is_equal(expected)?.then_some(pair.name));
        }
        Ok(equal)
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS);
    let compared: Vec<_> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(compare)).collect();
        let ended = running.into_iter().map(std::thread::ScopedJoinHandle::join);
        ended
            .map(|ended| ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    let mut names = BTreeSet::new();
    for equal in compared {
        names.extend(equal?.into_iter().map(str::to_owned));
    }
    Ok(names)
}
