//! The engine through its public door: what ranks say to each other, what a layout may change, what a
//! checkpoint keeps, and what happens to input that is wrong.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod accumulation;
mod adapter;
mod asynchronous;
mod auto_resume;
mod callbacks;
mod checkpoint;
mod comm;
mod config;
mod context;
mod cut_vision;
mod data_module;
mod decoding;
mod determinism;
mod distributed;
mod ending;
mod export;
mod failures;
mod gloo;
mod groups;
mod layout;
mod layout_invariance;
mod model;
mod moving;
mod nccl;
mod optimizer;
mod overlap;
mod packing;
mod pictures;
mod pipeline;
mod recompute;
mod reduction;
mod restoring;
mod resume;
mod ring;
mod rules;
mod saving;
mod setting;
mod sharded;
mod skipping;
mod stopping;
mod tensor_file;
mod traffic;
mod validation;
mod weights;
