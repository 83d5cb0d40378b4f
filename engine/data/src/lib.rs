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
mod blend;
mod check;
mod compression;
mod conversation;
mod energon;
mod error;
mod image;
mod inspect;
mod labels;
mod length_buckets;
mod length_groups;
mod length_index;
mod llava;
mod loader;
mod measured;
mod merge;
mod mock;
mod on_error;
mod order;
mod pack;
mod packed_rows;
mod packed_set;
mod packed_set_rows;
mod preloaded;
mod problem;
mod prompt;
mod random;
mod record_file;
mod row_stream;
mod sample;
mod sample_check;
mod sample_list;
mod sequence;
mod skip_list;
mod split;
mod staged_file;
mod template;
mod text_tools;
mod tokenizer;
mod truncation;
mod word_file;

pub use self::image::{
    Filter, ImageProcessor, ImageSource, ModelProcessor, ProcessMode, ProcessorOrigin, RgbImage, Size, Tiling, repeat_placeholders,
};
pub use batch::Batch;
pub use blend::{Blended, BlendedOrder};
pub use check::{
    CheckError, CheckOptions, CheckProgress, CheckReport, FileReport, Finding, ImageCheck, ImageReport, Kind, KindReport, LengthRange,
    LengthReport, Level, Probe, check,
};
pub use conversation::{Conversation, IMAGE_TOKEN, Turn};
pub use energon::{
    DocumentPiece, EnergonData, EnergonDataset, EnergonSample, PrepareError, PrepareOptions, PrepareProgress, Prepared, PreparedSplit,
    RawSample, SampleType, SplitRule, TaskEncoder, TaskText, Value, prepare,
};
pub use error::DataError;
pub use inspect::{
    EnergonView, InspectError, InspectedData, InspectedImage, InspectedSample, Piece, Selection, inspect, inspect_energon, page,
};
pub use labels::Unlabelled;
pub use length_groups::LengthGroups;
pub use length_index::{FileLengths, LengthIndex};
pub use llava::{Broken, ImagePosition, LlavaDataset, LlavaJsonConfig, Reading, RecordCounts};
pub use loader::Loader;
pub use measured::{MeasuredLengths, SampleLength};
pub use merge::{ImageSpan, MergeOptions, MergedBatch, merge, merge_rows};
pub use mock::{MockConfig, MockDataset};
pub use neva_jpeg::has_simd as has_jpeg_simd;
pub use on_error::SkipBroken;
pub use order::{BatchSampler, Order, SampleOrder};
pub use pack::pack_buffer;
pub use packed_rows::{PackedRows, PackingOptions};
pub use packed_set::PackedSet;
pub use packed_set_rows::PackedSetRows;
pub use preloaded::{ModelFolders, PreloadedData, PreloadedTools};
pub use problem::Problem;
pub use prompt::Prompt;
pub use record_file::{Form, RecordError, RecordFile};
pub use row_stream::{Row, RowSample, RowStart, RowStream, SampleRows, validation_rows};
pub use sample::{Dataset, IGNORE_INDEX, IMAGE_TOKEN_INDEX, Pixels, Sample, WithoutPixels};
pub use sample_check::{BrokenSample, SampleCheckOptions, SampleReport, SplitReport, check_samples};
pub use sample_list::SampleList;
pub use sequence::Sequence;
pub use skip_list::{SkipList, SkippedRecords};
pub use split::{Split, Subset, split};
pub use template::{ChatTemplate, ControlStrings, JinjaSettings, JinjaTemplate, TEMPLATES, Template, render};
pub use text_tools::TextTools;
pub use tokenizer::{Encoded, ExtendedTokenizer, GgufTokenizer, ImageText, SpecialIds, Tokenizer};
pub use truncation::{Truncated, TruncationCounter};
