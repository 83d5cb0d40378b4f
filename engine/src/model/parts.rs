//! Interfaces of a model and its parts.

use crate::attention::{KvCache, Segments};
use crate::batch::Batch;
use crate::error::Result;
use crate::nn::OutputPositions;
use std::fmt::Debug;
use tch::Tensor;

/// A pipeline chunk of a model, up to its last hidden state. The loss applies the head.
pub trait ModelChunk: Debug + Send {
    /// Returns whether the chunk starts with a vision tower, so that it needs pixels.
    fn sees_images(&self) -> bool;

    /// Computes hidden states `[b, s, h]` from those of the previous chunk; the first chunk reads the batch.
    ///
    /// # Errors
    /// A collective failed.
    fn forward(&self, batch: &Batch, before_bsh: Option<&Tensor>) -> Result<Tensor> {
        self.forward_at(batch, before_bsh, &OutputPositions::All)
    }

    /// Computes hidden states of `outputs` alone, `[1, t, h]`. All but the last chunk need all positions.
    ///
    /// # Errors
    /// A collective failed.
    fn forward_at(&self, batch: &Batch, before_bsh: Option<&Tensor>, outputs: &OutputPositions) -> Result<Tensor>;

    /// Returns an empty cache for [`Self::decode`].
    fn decoding(&self) -> Decoding;

    /// Computes hidden states of one sequence after the positions in `decoding`, on a chunk that is the whole model.
    ///
    /// # Errors
    /// The chunk is not the whole model.
    fn decode(&self, batch: &Batch, decoding: &mut Decoding) -> Result<Tensor>;

    /// Computes features `[images, s, h]` in the decoder's width.
    ///
    /// # Errors
    /// The chunk has no vision tower.
    fn image_features(&self, pixels: &Tensor) -> Result<Tensor>;

    /// Computes the vision tower's features `[images, s, h]`, the input of the projector.
    ///
    /// # Errors
    /// The chunk has no vision tower.
    fn vision_features(&self, pixels: &Tensor) -> Result<Tensor>;
}

/// A decoder, or a chunk of one: embedding, layers, final norm.
pub trait Decoder: Debug + Send {
    /// Computes embeddings `[b, s, h]` of `ids_bs`.
    ///
    /// # Errors
    /// The chunk has no embedding, or a collective failed.
    fn embed(&self, ids_bs: &Tensor) -> Result<Tensor>;

    /// Runs the layers over rows of `s` positions, and the final norm if the chunk has it. Hidden states are `[b, s, h]`,
    /// with the local shard of `s` under sequence parallelism. Returns those of `outputs`.
    ///
    /// # Errors
    /// A collective failed.
    fn forward(&self, hidden_bsh: &Tensor, s: i64, segments: &Segments, outputs: &OutputPositions) -> Result<Tensor>;

    /// Returns an empty cache for [`Self::decode`].
    fn decoding(&self) -> Decoding;

    /// Runs [`Self::forward`] for one sequence, after the positions in `decoding`: the whole prompt first, then one
    /// position at a time.
    ///
    /// # Errors
    /// libtorch returned an error.
    fn decode(&self, embeds_bsh: &Tensor, decoding: &mut Decoding) -> Result<Tensor>;
}

/// A vision tower up to the last selected hidden state.
pub trait VisionEncoder: Debug + Send {
    /// Computes features `[b, s, h]` at the selected positions of images `[b, channels, height, width]`.
    ///
    /// # Errors
    /// A collective failed.
    fn forward(&self, pixels: &Tensor) -> Result<Tensor>;
}

/// A projector from vision features to the decoder's width.
pub trait Projector: Debug + Send {
    /// Projects features `[b, s, vision h]` to `[b, s, h]`.
    ///
    /// # Errors
    /// A collective failed.
    fn forward(&self, features_bsh: &Tensor) -> Result<Tensor>;
}

/// Keys and values of earlier positions, for generation.
#[derive(Debug)]
pub struct Decoding {
    caches: Vec<KvCache>,
}

impl Decoding {
    /// Creates an empty cache for each of `layers` layers.
    pub fn new(layers: usize) -> Self {
        Self {
            caches: (0..layers).map(|_| KvCache::default()).collect(),
        }
    }

    /// Returns the position of the next token.
    pub fn position(&self) -> i64 {
        self.caches.first().map_or(0, KvCache::len)
    }

    /// Returns the caches, by layer.
    pub fn caches(&mut self) -> &mut [KvCache] {
        &mut self.caches
    }
}
