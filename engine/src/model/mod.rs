//! Models, written as the papers write them. Nothing here knows how many ranks there are: sizes are read
//! off the local tensors, and how those are cut stands in `neva-layout`.

mod clip;
mod llama;
mod llava;
mod projector;

pub use llama::{Decoding, Llama};
pub use llava::{Batch, Llava};
