//! The kernels without a GPU: compiled by NVRTC, and computed on the CPU from the same source.
#![allow(unsafe_code, reason = "the emulator is a foreign library")]

mod compiled;
mod emulated;
mod emulator;
mod formulae;
