//! Sequence packing: assigns samples to rows.

/// Returns the samples of each row, in ascending order. A row holds as many samples as fit into `max_length` positions
/// without truncation. Rows are in the order of their first samples.
///
/// Each row takes the longest remaining sample that fits, as NeMo's `greedy_knapsack` does. `lengths` are at most
/// `max_length`.
pub(crate) fn pack(lengths: &[usize], max_length: usize) -> Vec<Vec<usize>> {
    let mut remaining: Vec<usize> = (0..lengths.len()).collect();
    // Among samples of the same length, the first one is packed first.
    remaining.sort_by_key(|&sample| (lengths[sample], std::cmp::Reverse(sample)));
    let mut rows = Vec::new();
    while let Some(longest) = remaining.pop() {
        let (mut row, mut room) = (vec![longest], max_length.saturating_sub(lengths[longest]));
        while let Some(fitting) = remaining.partition_point(|&sample| lengths[sample] <= room).checked_sub(1) {
            let sample = remaining.remove(fitting);
            room -= lengths[sample];
            row.push(sample);
        }
        row.sort_unstable();
        rows.push(row);
    }
    rows.sort_unstable();
    rows
}
