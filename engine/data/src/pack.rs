//! Which samples share a row.

/// The samples of each row, in their order: as many as fit one behind the other into `max_length` positions, without
/// any of them cut. Rows are in the order of their first samples.
///
/// The longest sample that still fits comes next, as in NeMo's `greedy_knapsack`. `lengths` are at most `max_length`.
pub(crate) fn pack(lengths: &[usize], max_length: usize) -> Vec<Vec<usize>> {
    let mut left: Vec<usize> = (0..lengths.len()).collect();
    // Of samples of one length the first comes first.
    left.sort_by_key(|&sample| (lengths[sample], std::cmp::Reverse(sample)));
    let mut rows = Vec::new();
    while let Some(longest) = left.pop() {
        let (mut row, mut room) = (vec![longest], max_length.saturating_sub(lengths[longest]));
        while let Some(fitting) = left.partition_point(|&sample| lengths[sample] <= room).checked_sub(1) {
            let sample = left.remove(fitting);
            room -= lengths[sample];
            row.push(sample);
        }
        row.sort_unstable();
        rows.push(row);
    }
    rows.sort_unstable();
    rows
}
