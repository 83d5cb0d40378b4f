//! What a legend calls a run.

use std::{
    fmt::{self, Write as _},
    path::PathBuf,
};

/// Longest name in a legend, in characters; of a longer one the end is kept, where names differ most.
const LONGEST: usize = 100;

/// Names of the runs in `folders`: what is left of each path when what all begin with and end in is taken
/// off. At least one component stays.
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

/// A name as text of XML: its special characters escaped, and those that XML cannot hold replaced.
pub(super) struct Escaped<'a>(pub &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let excess = self.0.chars().count().saturating_sub(LONGEST);
        if excess > 0 {
            f.write_char('…')?;
        }
        for character in self.0.chars().skip(excess) {
            match character {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '\u{fffe}' | '\u{ffff}' => f.write_char('\u{fffd}')?,
                control if control.is_control() => f.write_char('\u{fffd}')?,
                other => f.write_char(other)?,
            }
        }
        Ok(())
    }
}
