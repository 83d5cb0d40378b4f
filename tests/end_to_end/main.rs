//! Tests of the programs together: the README's promises, and failures.
#![expect(clippy::unwrap_used, reason = "a test panics where something is wrong")]

mod code;
mod custom_types;
mod direct;
mod documents;
mod energon;
mod experiment;
mod faults;
mod full_disk;
mod gpu_check;
mod imports;
mod inputs;
mod killed;
mod layering;
mod nccl;
mod neva_finetune;
mod openmp;
mod photos;
mod pretrained;
mod processes;
mod profile;
mod qlora;
mod style;
mod terminal;
mod unlabelled;
mod unreachable;
mod warnings;
