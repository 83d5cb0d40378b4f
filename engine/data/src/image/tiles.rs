//! Tiles of an image, as InternVL cuts it (`dynamic_preprocess`, and `crop_image_to_patches` of transformers).

use crate::sample::{IGNORE_INDEX, IMAGE_TOKEN_INDEX};

/// Limits of the number of tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tiling {
    /// Minimum number of tiles, without the thumbnail.
    pub min_tiles: usize,
    /// Maximum number of tiles, without the thumbnail.
    pub max_tiles: usize,
    /// Adds the whole image as a last tile, if there is more than one.
    pub thumbnail: bool,
}

impl Tiling {
    /// Returns columns and rows of the grid for an image of `width x height` pixels: the grid whose aspect ratio is nearest
    /// to the image's. Of equally near grids, a larger one wins if the image has more than half of its pixels.
    ///
    /// `tile` is (height, width) of a tile.
    #[must_use]
    pub fn grid(&self, width: usize, height: usize, tile: (usize, usize)) -> (usize, usize) {
        let mut grids: Vec<(usize, usize)> = (1..=self.max_tiles)
            .flat_map(|columns| (1..=self.max_tiles / columns).map(move |rows| (columns, rows)))
            .filter(|(columns, rows)| columns * rows >= self.min_tiles)
            .collect();
        // Stable: grids of equally many tiles stay in the order of their columns, as in transformers.
        grids.sort_by_key(|(columns, rows)| columns * rows);
        let aspect = width as f64 / height.max(1) as f64;
        let area = (width * height) as f64;
        let (mut best, mut least) = ((1, 1), f64::INFINITY);
        for (columns, rows) in grids {
            let difference = (aspect - columns as f64 / rows as f64).abs();
            let half = 0.5 * (tile.0 * tile.1 * columns * rows) as f64;
            if difference < least || (difference == least && area > half) {
                (best, least) = ((columns, rows), difference);
            }
        }
        best
    }

    /// Returns the number of tiles of an image, thumbnail included.
    #[must_use]
    pub fn count(&self, width: usize, height: usize, tile: (usize, usize)) -> usize {
        let (columns, rows) = self.grid(width, height, tile);
        columns * rows + usize::from(self.thumbnail && columns * rows > 1)
    }
}

/// Repeats the placeholder of each image once for each of its `tiles`. The repeated ones are not labels.
pub fn repeat_placeholders(ids: &mut Vec<i64>, labels: &mut Vec<i64>, tiles: &[usize]) {
    if tiles.iter().all(|&count| count == 1) {
        return;
    }
    let (mut tiles, mut repeated) = (tiles.iter(), Vec::with_capacity(ids.len()));
    let mut repeated_labels = Vec::with_capacity(labels.len());
    for (&id, &label) in ids.iter().zip(labels.iter()) {
        let is_image = id == IMAGE_TOKEN_INDEX;
        let count = if is_image { tiles.next().copied().unwrap_or(1) } else { 1 };
        repeated.extend(std::iter::repeat_n(id, count));
        repeated_labels.extend(std::iter::repeat_n(if is_image { IGNORE_INDEX } else { label }, count));
    }
    (*ids, *labels) = (repeated, repeated_labels);
}
