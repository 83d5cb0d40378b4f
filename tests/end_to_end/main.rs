//! The programs together: what the README promises, and what happens when something goes wrong.
#![expect(clippy::unwrap_used, reason = "a test panics where something is wrong")]

mod direct;
mod documents;
mod experiment;
mod faults;
mod inputs;
mod killed;
mod layering;
mod nccl;
mod neva_finetune;
mod own_types;
mod photos;
mod processes;
