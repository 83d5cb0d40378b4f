//! Names of runs in a legend.

use std::path::PathBuf;

/// Maximum length of a name in a legend, in characters. Longer names are truncated at the start, as they differ at the end.
const MAX_LENGTH: usize = 100;

/// Returns names of the runs in `folders`: their paths without the common prefix and suffix. At least one component is
/// kept.
pub fn names(folders: &[PathBuf]) -> Vec<String> {
    let paths: Vec<Vec<String>> = folders
        .iter()
        .map(|folder| {
            folder
                .components()
                .map(|part| part.as_os_str().to_string_lossy().into_owned())
                .collect()
        })
        .collect();
    let Some(first) = paths.first() else { return Vec::new() };
    let shortest = paths.iter().map(Vec::len).min().unwrap_or_default();
    let room = shortest.saturating_sub(1);
    let front = (0..room)
        .take_while(|&index| paths.iter().all(|path| path[index] == first[index]))
        .count();
    let back = (1..=room - front)
        .take_while(|&index| paths.iter().all(|path| path[path.len() - index] == first[first.len() - index]))
        .count();
    paths.iter().map(|path| path[front..path.len() - back].join("/")).collect()
}

/// Returns the end of a name, at most [`MAX_LENGTH`] characters.
pub(super) fn shortened(name: &str) -> String {
    let excess = name.chars().count().saturating_sub(MAX_LENGTH);
    let kept = name.chars().skip(excess);
    if excess > 0 {
        ['…'].into_iter().chain(kept).collect()
    } else {
        kept.collect()
    }
}
