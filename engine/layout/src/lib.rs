//! What a model consists of and how it is cut, without a tensor library.
//!
//! Three readers share these tables: the engine that builds a model, the checkpoint code that moves
//! tensors between layouts, and the planner on a laptop. Nothing here knows a device or a rank's data.
#![forbid(unsafe_code)]

mod bucket;
mod context_traffic;
mod gradient_traffic;
mod groups;
mod hf_config;
mod llava;
mod lora;
mod model_traffic;
mod names;
mod parameter;
mod picture;
mod recompute;
mod schedule;
mod sharding;
mod stages;
mod trainable;
mod window;
mod zigzag;

pub use bucket::{Bucket, Member, buckets};
pub use context_traffic::{KeysValues, SharedPictures};
pub use gradient_traffic::{ReplicaTraffic, tensor_gradient_bytes};
pub use groups::{Hyperparameters, hyperparameters, idle_groups};
pub use hf_config::{HfConfigError, from_hf_config, to_hf_config};
pub use llava::{llava_parameters, tied_embedding};
pub use lora::{Adapters, LinearAdapter, lora_adapters};
pub use model_traffic::{CutPictures, Hidden, pipeline_bytes, recompute_bytes, tensor_bytes};
pub use names::{canonical_name, hub_name, ignorable};
pub use parameter::{Cut, Init, ParamSpec, Part, Shard};
pub use picture::{boxes_svg, shards_svg};
pub use recompute::{LayerGroup, layer_groups};
pub use schedule::{Action, Pass, Timeline, forward_schedule, most_in_flight, schedule};
pub use sharding::{cut_of, in_sequence_region, in_shared_vision, partial_over_tensor};
pub use stages::{Section, Stages};
pub use trainable::{PartSummary, is_trainable, summary};
pub use window::Window;
pub use zigzag::{Block, ZigZag};
