//! A decoder of text and images (LLaVA-1.5, arXiv:2310.03744, as `transformers.LlavaModel`), or of text alone. Image
//! features replace their placeholders in the text's embedding.

use super::parts::{Decoder, Decoding, ModelChunk, Projector, VisionEncoder};
use crate::batch::Batch;
use crate::error::{EngineError, Result};
use crate::nn::{ImagePartition, OutputPositions, TensorRegion};
use tch::Tensor;

/// The model up to the last hidden state, or a chunk of it.
#[derive(Debug)]
pub(super) struct Multimodal {
    pub(super) images: Option<Images>,
    pub(super) decoder: Box<dyn Decoder>,
    pub(super) region: TensorRegion,
}

/// Vision tower and projector: compute the features that replace the placeholders of images.
#[derive(Debug)]
pub(super) struct Images {
    pub(super) vision: Box<dyn VisionEncoder>,
    pub(super) projector: Box<dyn Projector>,
    pub(super) partition: ImagePartition,
}

impl Images {
    fn features(&self, pixels: &Tensor) -> Result<Tensor> {
        self.projector.forward(&self.vision.forward(pixels)?)
    }
}

impl Multimodal {
    fn images(&self) -> Result<&Images> {
        let images = self.images.as_ref();
        images.ok_or_else(|| EngineError::Bug("this chunk of the model sees no images".into()))
    }

    /// Returns the embedding of the text, with image features instead of their placeholders.
    fn embed(&self, batch: &Batch) -> Result<Tensor> {
        let embeds_bsh = self.decoder.embed(&batch.input_ids_bs.clamp_min(0))?;
        let (Some(pixels), Some(images)) = (&batch.pixels, &self.images) else {
            if batch.image_positions.numel() > 0 {
                return Err(EngineError::Bug("images without pixels where they are needed".into()));
            }
            return Ok(embeds_bsh);
        };
        let encode = |own: &Tensor| images.features(&own.to_kind(embeds_bsh.kind()));
        let mut features_th = images.partition.encode(pixels, encode)?.flatten(0, 1);
        if let Some(rows) = &batch.feature_rows {
            features_th = features_th.index_select(0, rows);
        }
        let flat_th = embeds_bsh.flatten(0, 1).index_copy(0, &batch.image_positions, &features_th);
        Ok(flat_th.view_as(&embeds_bsh))
    }
}

impl ModelChunk for Multimodal {
    fn sees_images(&self) -> bool {
        self.images.is_some()
    }

    fn forward_at(&self, batch: &Batch, before_bsh: Option<&Tensor>, outputs: &OutputPositions) -> Result<Tensor> {
        let hidden_bsh = match before_bsh {
            Some(before_bsh) => before_bsh.shallow_clone(),
            // With sequence parallelism the layers take the local shard of `s`.
            None => self.region.scatter(&self.embed(batch)?)?,
        };
        let s = batch.input_ids_bs.size()[1];
        self.decoder.forward(&hidden_bsh, s, &batch.segments, outputs)
    }

    fn decoding(&self) -> Decoding {
        self.decoder.decoding()
    }

    fn decode(&self, batch: &Batch, decoding: &mut Decoding) -> Result<Tensor> {
        self.decoder.decode(&self.embed(batch)?, decoding)
    }

    fn image_features(&self, pixels: &Tensor) -> Result<Tensor> {
        self.images()?.features(pixels)
    }

    fn vision_features(&self, pixels: &Tensor) -> Result<Tensor> {
        self.images()?.vision.forward(pixels)
    }
}
