//! Files of tensors: reading what others wrote, writing our own, and finding what to start from.

mod cache;
mod folder;
mod resume;
mod safetensors_file;
mod save;
mod weights;

pub use cache::{ModelCache, resolve_restore};
pub use folder::{CHECKPOINT_FORMAT, CheckpointFolder, CheckpointState, newest_checkpoint};
pub use resume::{restore_optimizer, resume_from};
pub use safetensors_file::{TensorFile, write_tensors};
pub use save::{Artifacts, Snapshot, save};
pub use weights::{Base, Placement, load_parameters};
