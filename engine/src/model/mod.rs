//! Models, as in the papers. Models do not depend on the number of ranks: they read sizes from the local tensors, and
//! `neva-layout` defines how tensors are sharded.

mod clip;
mod decoder;
mod intern_vit;
mod multimodal;
mod parts;
mod projector;
mod registry;
mod siglip;
mod vit;

pub use parts::{Decoder, Decoding, ModelChunk, Projector, VisionEncoder};
pub use registry::{BuildDecoder, BuildVision, Models};
