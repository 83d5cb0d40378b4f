//! Tests of layouts, through the crate's public functions.

mod buckets;
mod cut_vision;
mod decoders;
mod flops;
mod groups;
mod pipeline;
mod readers;
mod tables;
mod unapplied;
mod windows;
mod zigzag;
