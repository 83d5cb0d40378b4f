//! Datasets of Megatron-Energon: WebDataset shards with metadata in `.nv-meta`, `.jsonl` files, and metadatasets that mix
//! them. Written against megatron-energon 7.4.1.
//!
//! ```text
//! metadataset --mixture--> leaves --shards, index--> RawSample --mapping--> EnergonSample --encoder--> Prompt, images
//! ```
//!
//! Python in a dataset (`sample_loader.py`, cookers, joiners) is not executed: a [`Mapping`] in the recipe replaces it.
//! A sample is read by its number: the order of samples is that of this crate ([`Order`](crate::Order)), not Energon's.

mod braces;
mod data;
mod dataset;
mod encoder;
mod expression;
mod join;
mod joined;
mod leaf;
mod lines;
mod mapping;
mod matches;
mod metadata;
mod metadataset;
mod mixture;
mod prepare;
mod raw_sample;
mod reference;
mod sample;
mod sample_type;
mod shard;
mod split_parts;
mod subset;
mod tar_walk;
mod task_encoder;
mod webdataset;

pub use data::EnergonData;
pub use dataset::EnergonDataset;
pub use prepare::{PrepareError, PrepareOptions, PrepareProgress, Prepared, PreparedSplit, SplitRule, prepare};
pub use raw_sample::RawSample;
pub use sample::{EnergonSample, Value};
pub use sample_type::SampleType;
pub use task_encoder::{DocumentPiece, TaskEncoder, TaskText};
