//! The kernels without a GPU: compiled by NVRTC, and computed on the CPU from the same source.
#![expect(unsafe_code, reason = "the emulator is a foreign library")]
#![expect(clippy::unwrap_used, reason = "a test that cannot continue has failed")]

mod compiled;
mod emulated;
mod emulator;
mod formulae;
mod processor;
