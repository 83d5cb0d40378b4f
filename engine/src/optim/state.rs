//! State of the optimizer.

use super::master::MasterWeights;
use neva_layout::ParamSpec;
use std::ops::Range;
use tch::Tensor;

/// Optimizer state of a range of one parameter's values. Tensors are flat.
#[derive(Debug)]
pub(super) struct State {
    pub(super) spec: ParamSpec,
    /// Number of the parameter among the trainable ones.
    pub(super) index: usize,
    pub(super) range: Range<usize>,
    pub(super) master: MasterWeights,
    /// The parameter's values, unless they are master weights themselves or a half of these.
    pub(super) rounded: Option<Tensor>,
    pub(super) moments: Vec<(&'static str, Tensor)>,
    pub(super) step: Tensor,
    pub(super) group: usize,
}
