//! The input batch of a model.

use crate::attention::Segments;
use tch::Tensor;

/// A merged batch on the model's device.
#[derive(Debug)]
pub struct Batch {
    /// Token ids `[b, s]`; negative at the positions of images.
    pub input_ids_bs: Tensor,
    /// Target of each position `[b, s]`; negative for ignored positions.
    pub labels_bs: Tensor,
    /// Segment bounds.
    pub segments: Segments,
    /// Images `[images, channels, height, width]`, if any. A model chunk without the vision tower needs none.
    pub pixels: Option<Tensor>,
    /// Positions of the images' features in the flattened `[b * s]`, in order.
    pub image_positions: Tensor,
    /// Rows of the flattened features that are used, one for each of these positions; `None` for all rows.
    pub feature_rows: Option<Tensor>,
}
