//! Datasets, image processing, tokenization and batching for LLaVA-style models.
//!
//! This crate is torch-free on purpose: the definition of a token, a label, a pixel and a batch can be read and tested
//! without libtorch. The engine only copies the vectors into tensors.
//! The crate does no training, knows no mesh beyond a data-parallel rank's number, and parses no recipe. Its config
//! structs are plain; `preloaded.rs` fills them from the typed recipe, for the engine and for the launcher's preflight.
//!
//! ```text
//! record --template--> Prompt --tokenizer--> Encoded --+
//! image --decode, process--> Pixels -------------------+--> Sample --sequence--> merge --> MergedBatch
//! consumed_samples --order--> dataset indices --loader--> batches, prefetched
//! ```

#![forbid(unsafe_code)]

mod batch;
mod error;
mod image;
mod labels;
mod llava;
mod loader;
mod merge;
mod mock;
mod order;
mod pack;
mod preloaded;
mod random;
mod sample;
mod sequence;
mod split;
mod template;
mod tokenizer;

pub use self::image::{
    Filter, ImageProcessor, ImageSource, ModelProcessor, ProcessMode, ProcessorOrigin, RgbImage, Size, Tiling, repeat_placeholders,
};
pub use batch::Batch;
pub use error::{DataError, Problem};
pub use labels::Unlabelled;
pub use llava::{ImagePosition, LlavaDataset, LlavaJsonConfig};
pub use loader::Loader;
pub use merge::{ImageSpan, MergeOptions, MergedBatch, merge};
pub use mock::{MockConfig, MockDataset};
pub use neva_jpeg::has_simd as has_jpeg_simd;
pub use order::{BatchSampler, Order};
pub use preloaded::{ModelFolders, PreloadedTools};
pub use sample::{Dataset, IGNORE_INDEX, IMAGE_TOKEN_INDEX, Pixels, Sample, WithoutPixels};
pub use sequence::Sequence;
pub use split::{Split, Subset, split};
pub use template::{Conversation, IMAGE_TOKEN, Prompt, TEMPLATES, Template, Turn, render};
pub use tokenizer::{Encoded, SpecialIds, Tokenizer};
