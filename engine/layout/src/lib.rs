//! Parameter tables of models and their partitioning among ranks, without a tensor library.
//!
//! The engine builds models from these tables, the checkpoint code moves tensors between layouts, and the planner
//! runs on a laptop. Nothing here depends on a device or on a rank's data.
#![forbid(unsafe_code)]

mod bucket;
mod context_traffic;
pub mod families;
mod flops;
mod fp8;
mod gradient_traffic;
mod groups;
mod hub_cache;
mod lora;
mod model_cache;
mod model_differences;
mod model_traffic;
mod parameter;
mod peft_config;
mod quantization;
mod recompute;
mod schedule;
mod stages;
mod trainable;
mod unapplied;
mod window;
mod zigzag;

pub use bucket::{Bucket, Member, buckets};
pub use context_traffic::{KeysValues, SharedImages};
pub use families::{ExportedFiles, Families, HfConfigError, ModelTable, ReaderSlot, VLLM_VERSION, from_hf_config};
pub use flops::ModelFlops;
pub use fp8::Fp8Linears;
pub use gradient_traffic::{DpCpTraffic, tensor_gradient_bytes};
pub use groups::{Hyperparameters, hyperparameters, unmatched_optim_settings};
pub use hub_cache::{HubAddress, HubAddressError, HubCache};
pub use lora::{Adapters, LinearAdapter, Patterns, lora_adapters, saves_module};
pub use model_cache::{ModelCache, adapter_as_base, is_model_address, missing_model};
pub use model_differences::{config_differences, model_differences};
pub use model_traffic::{Hidden, TensorParallelImages, pipeline_bytes, recompute_bytes, tensor_bytes};
pub use parameter::{Cut, Init, LoraModule, ParamSpec, Part, PartialSum, Shard, Stage};
pub use peft_config::{LLAVA_NON_LORA, PeftConfig, llava_adapter};
pub use quantization::{BlockCut, NF4_BLOCK, block_cut, is_quantized, quantization_problem};
pub use recompute::{LayerGroup, layer_groups};
pub use schedule::{Action, Pass, Timeline, forward_schedule, most_in_flight, schedule};
pub use stages::{ChunkSpec, Stages};
pub use trainable::{PartSummary, is_trainable, summary};
pub use unapplied::{end_tokens, unapplied_generation_settings, unapplied_model_settings};
pub use window::Window;
pub use zigzag::{Block, Mask, ZigZag};
