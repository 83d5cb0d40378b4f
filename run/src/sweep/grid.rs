//! Points of a grid by their number, and those that are drawn.

use indexmap::IndexMap;

use super::MAX_POINTS;

/// The picks of point `number` of the grid.
pub(super) fn digits(mut number: usize, lengths: &[usize]) -> Vec<usize> {
    let mut digits = vec![0; lengths.len()];
    for (digit, len) in digits.iter_mut().zip(lengths).rev() {
        *digit = number % len;
        number /= len;
    }
    digits
}

/// `count` different points of the grid, the same ones for the same seed, in the order of the draw.
pub(super) fn drawn(count: usize, lengths: &[usize], grid: Option<usize>, seed: u64) -> Vec<Vec<usize>> {
    let mut state = seed;
    // Steele, Lea and Flood's SplitMix64: a few lines, and the same on every machine and version.
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let mut below = |len: usize| usize::try_from(next() % len as u64).unwrap_or(0);
    if let Some(grid) = grid.filter(|grid| *grid <= MAX_POINTS) {
        // Of a small grid, the beginning of a shuffle, so that all of it can be drawn.
        let mut order: Vec<usize> = (0..grid).collect();
        for at in 0..count {
            order.swap(at, at + below(grid - at));
        }
        return order[..count].iter().map(|point| digits(*point, lengths)).collect();
    }
    let mut points = IndexMap::new();
    while points.len() < count {
        let point: Vec<_> = lengths.iter().map(|len| below(*len)).collect();
        points.insert(point, ());
    }
    points.into_keys().collect()
}
