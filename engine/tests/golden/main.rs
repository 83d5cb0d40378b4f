//! Numbers against Hugging Face: every case folder of the project's fixtures, and of `NEVA_GOLDEN_DIR`.
//!
//! The folders are made by `transformers`, `peft` and `torch` (see tests/fixtures/README.md). Each test
//! prints the name of every case that it ran.
#![expect(clippy::print_stdout, reason = "the name of every case is part of the result")]
#![expect(clippy::unwrap_used, reason = "a test panics where something is wrong")]

mod accumulation;
mod alone;
mod autocast;
mod case;
mod forward;
mod hidden;
mod training;
