//! Files of weights, read and written without a tensor library: safetensors, PyTorch's pickles, and GGUF.
//!
//! ```text
//! path --WeightFile::open--> header, checked against the size of the file --WeightFile::stream--> bytes of one tensor
//! tensors --Shards::plan--> headers and index --Shard::write--> files --WriteBack--> disk
//! ```
//!
//! Files are input of strangers. Opening one checks every size and offset in it, and allocates no more than the file has.
//! Nothing in a file is executed: a pickle is interpreted by [`pickle`](read_pickle)'s own machine, which knows a list of
//! PyTorch's functions and refuses all others. Memory is one buffer; a tensor that is not contiguous is read as a whole.
#![forbid(unsafe_code)]

mod blocks;
mod error;
mod file;
mod gguf;
mod pickle;
mod safetensors_header;
mod shards;
mod source;
mod tensor;
pub mod values;
mod write_back;
mod zip;

pub use error::WeightsError;
pub use file::{Format, WeightFile, read_pickle};
pub use gguf::{Metadata, MetadataValue};
pub use safetensors::Dtype;
pub use shards::{Output, Shard, Shards};
pub use tensor::{StoredTensor, TensorInfo};
pub use write_back::{Unsynced, WriteBack};
