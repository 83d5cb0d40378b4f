//! InternVL's projector: `transformers.InternVLMultiModalProjector` after a pixel shuffle.

use super::family::ProjectorFamily;
use super::mlp::linears;
use super::vision_rows::VisionRows;
use crate::parameter::{ParamSpec, Part};
use neva_schemas::{Projector, VisionPlacement};

/// The family of InternVL's projector.
#[derive(Debug, Clone, Copy)]
pub struct PixelShuffle;

impl ProjectorFamily for PixelShuffle {
    fn parameters(&self, projector: &Projector, prefix: &str, placement: VisionPlacement) -> Vec<ParamSpec> {
        let mut rows = VisionRows::new(Part::Projection, prefix, placement);
        rows.layer_norm("layer_norm", projector.linear_input_size(), true);
        linears(&mut rows, projector);
        rows.finish()
    }
}
