//! Datasets turned into integer and float batches.
//!
//! This crate is torch-free on purpose: what a token, a label, a pixel and a batch *are* can be read and tested
//! without libtorch, and the engine only copies the vectors into tensors.
//! It does no training, knows no mesh beyond a data-parallel rank's number, and parses no recipe: its config structs
//! are plain, the engine fills them from the typed recipe.
//!
//! ```text
//! record --template--> Prompt --tokenizer--> Encoded --+
//! picture --decode, process--> Pixels -----------------+--> Sample --row--> merge --> MergedBatch
//! consumed_samples --order--> dataset indices --loader--> batches, prefetched
//! ```

#![forbid(unsafe_code)]

mod batch;
mod error;
mod llava;
mod loader;
mod merge;
mod mock;
mod order;
mod pack;
mod picture;
mod random;
mod sample;
mod split;
mod template;
mod tokenizer;

pub use batch::Batch;
pub use error::{DataError, Problem};
pub use llava::{ImagePosition, LlavaConfig, LlavaDataset};
pub use loader::Loader;
pub use merge::{ImageSpan, MergeOptions, MergedBatch, Row, merge};
pub use mock::{MockConfig, MockDataset};
pub use order::{BatchSlice, Order};
pub use picture::{ImageProcessor, ProcessMode, Rgb, Size};
pub use sample::{Dataset, IGNORE, IMAGE, Pixels, Sample, WithoutPixels};
pub use split::{Split, Subset, split};
pub use template::{Conversation, IMAGE_MARK, Prompt, TEMPLATES, Template, Turn, render};
pub use tokenizer::{Encoded, SpecialIds, Tokenizer};
