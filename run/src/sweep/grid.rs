//! Points of a grid by index, and random points of it.

use indexmap::IndexMap;

use super::MAX_POINTS;

/// Returns the index on each axis of point `number` of the grid.
pub(super) fn grid_point(mut number: usize, lengths: &[usize]) -> Vec<usize> {
    let mut indices = vec![0; lengths.len()];
    for (index, len) in indices.iter_mut().zip(lengths).rev() {
        *index = number % len;
        number /= len;
    }
    indices
}

/// Draws `count` different points of the grid; the same seed gives the same points in the same order.
pub(super) fn random_points(count: usize, lengths: &[usize], grid: Option<usize>, seed: u64) -> Vec<Vec<usize>> {
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
        // A small grid is shuffled, so that all of its points can be drawn.
        let mut order: Vec<usize> = (0..grid).collect();
        for at in 0..count {
            order.swap(at, at + below(grid - at));
        }
        return order[..count].iter().map(|point| grid_point(*point, lengths)).collect();
    }
    let mut points = IndexMap::new();
    while points.len() < count {
        let point: Vec<_> = lengths.iter().map(|len| below(*len)).collect();
        points.insert(point, ());
    }
    points.into_keys().collect()
}
