//! Files of tensors: reading what others wrote, writing our own, and finding what to start from.

mod adapter;
mod aside;
mod base;
mod cache;
mod checksum;
mod export;
mod folder;
mod host_memory;
mod hugging_face;
mod last;
mod peft;
mod pieces;
mod resume;
mod retention;
mod safetensors_file;
mod save;
mod saving;
mod share;
mod state;
mod weights;

pub use adapter::Adapter;
pub use base::Base;
pub use cache::{ModelCache, resolve_restore};
pub use checksum::{Checksum, Checksums, SEAL};
pub use export::{SHARD_BYTES, export_hugging_face};
pub use folder::{CheckpointFolder, newest_checkpoint};
pub use host_memory::HostMemory;
pub use peft::PeftFolder;
pub use pieces::StoredTensors;
pub use resume::{refuse_past_end, restore_optimizer, resume_from};
pub use retention::is_among_best;
pub use safetensors_file::{TensorFile, bytes_read, write_tensors};
pub use save::{Artifacts, Snapshot, save, set_aside};
pub use saving::Saving;
pub use state::{BaseReference, CHECKPOINT_FORMAT, CheckpointState, RunProgress};
pub use weights::{Placement, Sources, load_parameters};
