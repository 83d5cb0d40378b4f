//! Sequence packing: assigns samples to rows.

use crate::length_buckets::LengthBuckets;

/// Returns the samples of each row, in ascending order. A row holds as many samples as fit into `max_length` positions
/// without truncation. Rows are in the order of their first samples.
///
/// Each row takes the longest remaining sample that fits, as NeMo's `greedy_knapsack` does. `lengths` are at most
/// `max_length`.
pub(crate) fn pack(lengths: &[usize], max_length: usize) -> Vec<Vec<usize>> {
    rows(lengths, max_length, longest_first)
}

/// Returns rows as packing within a microbatch does, but with less padding where there are many samples: the fewer rows of two methods.
///
/// The second method ends each row with the pair of samples that fills it best, and begins it with samples of such a length
/// that the pair has average ones to choose from.
#[must_use]
pub fn pack_buffer(lengths: &[usize], max_length: usize) -> Vec<Vec<usize>> {
    let greedy = rows(lengths, max_length, longest_first);
    // No method needs fewer rows than this.
    if greedy.len() <= lengths.iter().sum::<usize>().div_ceil(max_length.max(1)) {
        return greedy;
    }
    let paired = rows(lengths, max_length, best_pair_last);
    if paired.len() < greedy.len() { paired } else { greedy }
}

/// Fills rows, one after the other. `next` returns the length of the next sample for the remaining positions of a row.
fn rows(lengths: &[usize], max_length: usize, next: fn(&LengthBuckets, usize) -> Option<usize>) -> Vec<Vec<usize>> {
    let mut remaining = LengthBuckets::new(lengths);
    let mut rows = Vec::new();
    while let Some(longest) = remaining.longest(usize::MAX) {
        let (mut row, mut room) = (Vec::new(), max_length.max(longest));
        let mut length = Some(longest);
        while let Some((taken, sample)) = length.and_then(|length| Some((length, remaining.take(length)?))) {
            row.push(sample);
            room -= taken;
            length = next(&remaining, room);
        }
        row.sort_unstable();
        rows.push(row);
    }
    rows.sort_unstable();
    rows
}

fn longest_first(remaining: &LengthBuckets, room: usize) -> Option<usize> {
    remaining.longest(room)
}

fn best_pair_last(remaining: &LengthBuckets, room: usize) -> Option<usize> {
    let longest = remaining.longest(room)?;
    let mean = remaining.mean();
    let more = (room as f64 / mean.max(1.0)).round();
    if more >= 3.0 {
        let wanted = (room as f64 - (more - 1.0) * mean).max(0.0) as usize;
        return remaining.longest(wanted.min(longest)).or(remaining.shortest(0));
    }
    // The longer one of the pair is next; the other one is then the longest that fits.
    match remaining.best_pair(room) {
        Some((short, long)) if short + long > longest => Some(long),
        _ => Some(longest),
    }
}
