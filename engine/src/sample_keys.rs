//! Keys of the samples of a microbatch, for random numbers that are the same in every layout.
//!
//! The key of a position depends on the place of its sample in the stream of training samples and on the position within
//! the sample: not on rows, packing, microbatches or ranks. A place of the stream is used once, so each step has its own
//! numbers, also after a resume.

use crate::random::mix;
use neva_layout::ZigZag;

/// Separates the keys of images from those of positions.
const IMAGE: u64 = 0x696d_6167_6500_0000;

/// Keys of the positions and of the images of a microbatch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SampleKeys {
    /// Positions of a row.
    s: usize,
    /// Key of each position, row by row.
    pub(crate) positions: Vec<u64>,
    /// Key of each image, in the order of the batch.
    pub(crate) images: Vec<u64>,
}

impl SampleKeys {
    /// Returns the keys of a batch; `None` if its samples have no place in the stream of training samples.
    pub fn of(batch: &neva_data::Batch) -> Option<Self> {
        let (tokens, places) = (&batch.tokens, &batch.positions);
        if places.is_empty() {
            return None;
        }
        let mut keys = Self {
            s: tokens.s,
            positions: vec![0; tokens.b * tokens.s],
            images: Vec::with_capacity(tokens.images.len()),
        };
        let mut images = tokens.images.iter().peekable();
        let rows = tokens.rows.iter().zip(&tokens.segments).enumerate();
        for (row, (samples, ends)) in rows {
            let mut start = 0;
            for (sample, end) in samples.iter().zip(ends) {
                let key = mix(*places.get(*sample)?);
                for (position, own) in keys.positions[row * tokens.s..][start..*end].iter_mut().enumerate() {
                    *own = mix(key.wrapping_add(position as u64));
                }
                let mut number = 0;
                while images.next_if(|image| (image.row, image.start) < (row, *end)).is_some() {
                    keys.images.push(mix(key ^ mix(IMAGE + number)));
                    number += 1;
                }
                start = *end;
            }
        }
        Some(keys)
    }

    /// Returns the keys of a rank's context-parallel shard.
    #[must_use]
    pub fn held(self, zigzag: ZigZag) -> Self {
        if zigzag.ranks == 1 {
            return self;
        }
        let held: Vec<_> = zigzag.positions(self.s).collect();
        let rows = self.positions.chunks(self.s.max(1));
        Self {
            s: held.len(),
            positions: rows.flat_map(|row| held.iter().map(|position| row[*position])).collect(),
            images: self.images,
        }
    }
}
