//! Names of points: short, unique and usable as folder names.

use crate::config::{Path, Segment};

/// Returns the shortest unique tails of the paths: `lr`, or `a.lr` and `b.lr`.
pub(super) fn labels<'a>(paths: impl Iterator<Item = &'a Path>) -> Vec<String> {
    let paths: Vec<_> = paths.collect();
    let tail = |path: &Path, len: usize| {
        let segments = &path.0[path.0.len().saturating_sub(len)..];
        let words = segments.iter().map(|segment| match segment {
            Segment::Key(key) => key.clone(),
            Segment::Index(index) => index.to_string(),
        });
        words.collect::<Vec<_>>().join(".")
    };
    let label = |path: &Path| {
        let unique = |len: &usize| paths.iter().filter(|other| tail(other, *len) == tail(path, *len)).count() == 1;
        // An index alone is not a useful label.
        let named = |len: &usize| {
            path.0
                .len()
                .checked_sub(*len)
                .and_then(|at| path.0.get(at))
                .is_none_or(|first| matches!(first, Segment::Key(_)))
        };
        let len = (1..path.0.len()).find(|len| unique(len) && named(len)).unwrap_or(path.0.len());
        tail(path, len)
    };
    paths.iter().map(|path| label(path)).collect()
}

/// Returns `text` with characters removed or replaced that a folder name should not hold.
pub(super) fn folder_name(text: &str) -> String {
    let kept = |c: char| c.is_alphanumeric() || "-_.=+@,".contains(c);
    let dropped = |c: char| "\"'[]{}() ".contains(c);
    let name: String = text
        .chars()
        .filter(|c| !dropped(*c))
        .map(|c| if kept(c) { c } else { '-' })
        .collect();
    name.trim_start_matches(['.', '-']).to_owned()
}
