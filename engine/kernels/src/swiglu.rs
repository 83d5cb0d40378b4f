//! SwiGLU (arXiv:2002.05202).

use crate::kernels::Kernels;
use crate::launch::{Argument, torch};
use neva_torch_ffi::{BoxError, Error, Function, Result, apply};
use tch::Tensor;

const OP: &str = "SwiGLU";
/// Values of a row that a block has (`SPAN` in `swiglu.cu`).
const SPAN: i64 = 1024;

/// Returns `silu(gate) * up` of `[.., f]`.
///
/// # Errors
/// The shapes differ, or libtorch or the GPU refused.
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    match Kernels::for_all("swiglu", &[gate, up]) {
        Some(kernels) => kernels.swiglu(gate, up),
        None => formula(gate, up),
    }
}

/// libtorch's formula.
pub(crate) fn formula(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    gate.f_silu().and_then(|silu| silu.f_mul(up)).map_err(torch(OP))
}

impl Kernels {
    /// As [`swiglu`], with kernels.
    pub(crate) fn swiglu(&self, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
        let node = Swiglu {
            kernels: self.clone(),
            saved: None,
        };
        let mut outputs = apply(node, &[gate, up])?;
        outputs.pop().ok_or_else(|| Error::Argument(format!("{OP}: no output")))
    }
}

struct Swiglu {
    kernels: Kernels,
    /// Gate and up, as rows.
    saved: Option<[Tensor; 2]>,
}

/// Returns `[.., f]` as `[rows, f]` with neighbours in the last dim, without a copy if the rows are equally far apart.
fn rows(x: &Tensor, width: i64) -> Result<Tensor> {
    let rows = x.f_reshape([-1, width]).map_err(torch(OP))?;
    if rows.stride()[1] == 1 {
        return Ok(rows);
    }
    rows.f_contiguous().map_err(torch(OP))
}

/// Returns the blocks for `[rows, width]`.
fn blocks(rows: &Tensor) -> i64 {
    let size = rows.size();
    size[0] * ((size[1] + SPAN - 1) / SPAN)
}

impl Function for Swiglu {
    fn forward(&mut self, inputs: &[&Tensor]) -> Result<Vec<Tensor>, BoxError> {
        let size = inputs[0].size();
        let width = size.last().copied().unwrap_or(0);
        if inputs[1].size() != size || inputs[1].kind() != inputs[0].kind() || width == 0 {
            return Err(format!("{OP} of {size:?} and {:?}", inputs[1].size()).into());
        }
        let (gate, up) = (rows(inputs[0], width)?, rows(inputs[1], width)?);
        let y = Tensor::f_empty(&size, (gate.kind(), gate.device()))?;
        let arguments = [
            Argument::Tensor(&gate),
            Argument::Tensor(&up),
            Argument::Tensor(&y),
            Argument::Long(gate.stride()[0]),
            Argument::Long(up.stride()[0]),
            Argument::Long(width),
        ];
        self.kernels.run("swiglu", gate.kind(), blocks(&gate), &arguments)?;
        self.saved = Some([gate, up]);
        Ok(vec![y])
    }

    fn backward(&mut self, grads: &[Option<Tensor>]) -> Result<Vec<Option<Tensor>>, BoxError> {
        let (Some(grad), Some([gate, up])) = (&grads[0], &self.saved) else {
            return Ok(vec![None, None]);
        };
        let grad = grad.f_to_kind(gate.kind())?.f_contiguous()?;
        let empty = || Tensor::f_empty(grad.size(), (gate.kind(), gate.device()));
        let (d_gate, d_up) = (empty()?, empty()?);
        let arguments = [
            Argument::Tensor(&grad),
            Argument::Tensor(gate),
            Argument::Tensor(up),
            Argument::Tensor(&d_gate),
            Argument::Tensor(&d_up),
            Argument::Long(gate.stride()[0]),
            Argument::Long(up.stride()[0]),
            Argument::Long(gate.size()[1]),
        ];
        self.kernels.run("swiglu_grad", gate.kind(), blocks(gate), &arguments)?;
        Ok(vec![Some(d_gate), Some(d_up)])
    }
}
