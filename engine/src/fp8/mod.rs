//! Linears in FP8, as in Transformer Engine: a tensor is multiplied by a scale and rounded to 8 bits, and the GEMM divides its
//! result by the scales of both operands.
//!
//! | module | owns |
//! |---|---|
//! | `format` | the formats E4M3 and E5M2, and which tensor has which |
//! | `recipe` | arithmetic of histories and scales, without state |
//! | `tensor` | quantised matrices |
//! | `gemm` | products of them |
//! | `mx` | scales of MXFP8 as products in hardware read them |
//! | `quantizer` | the scaling of one tensor of a linear |
//! | `linear` | the three GEMMs of a linear as an autograd node |
//! | `states` | the scaling state of all linears, and its update after a step |
//!
//! Shape suffixes: `t` tokens, `i` and `o` width of a linear's input and output.

mod format;
mod gemm;
mod linear;
pub mod mx;
mod quantizer;
pub mod recipe;
mod states;
mod tensor;

pub use format::{Format, Role};
pub use gemm::{Gemm, ScaleRows};
pub use linear::{Fp8Linear, Fp8Weight};
pub use states::{LinearState, ScalingStates, WeightScale};
pub use tensor::Float8Tensor;
