//! Rotary position embedding (arXiv:2104.09864), Hugging Face's half-rotation layout.

use crate::kernels::Kernels;
use crate::launch::{Argument, torch};
use neva_torch_ffi::{BoxError, Error, Function, Result, apply};
use tch::{TchError, Tensor};

const OP: &str = "rotary embedding";

/// Rotates `x_bnsd` by angles whose cosines and sines are `[b or 1, 1, s, d]`, with equal halves in the last dim. Values of
/// a head without an angle are unchanged.
///
/// # Errors
/// The shapes do not fit, or libtorch or the GPU refused.
pub fn rotate(x_bnsd: &Tensor, cosines: &Tensor, sines: &Tensor) -> Result<Tensor> {
    match Kernels::for_all("rope", &[x_bnsd, cosines, sines]) {
        Some(kernels) => kernels.rotate(x_bnsd, cosines, sines),
        None => formula(x_bnsd, cosines, sines).map_err(torch(OP)),
    }
}

/// libtorch's formula.
pub(crate) fn formula(x_bnsd: &Tensor, cosines: &Tensor, sines: &Tensor) -> std::result::Result<Tensor, TchError> {
    let turn = |x: &Tensor| {
        let halves = x.f_chunk(2, -1)?;
        let rotated = Tensor::f_cat(&[halves[1].f_neg()?, halves[0].shallow_clone()], -1)?;
        x.f_mul(cosines)?.f_add(&rotated.f_mul(sines)?)
    };
    let (dim, width) = (cosines.size()[3], x_bnsd.size()[3]);
    if dim == width {
        return turn(x_bnsd);
    }
    let rotated = turn(&x_bnsd.f_narrow(3, 0, dim)?)?;
    Tensor::f_cat(&[rotated, x_bnsd.f_narrow(3, dim, width - dim)?], 3)
}

impl Kernels {
    /// As [`rotate`], with kernels.
    pub(crate) fn rotate(&self, x_bnsd: &Tensor, cosines: &Tensor, sines: &Tensor) -> Result<Tensor> {
        let contiguous = |angles: &Tensor| angles.f_detach()?.f_contiguous();
        let node = Rotation {
            kernels: self.clone(),
            cosines: contiguous(cosines).map_err(torch(OP))?,
            sines: contiguous(sines).map_err(torch(OP))?,
        };
        let mut outputs = apply(node, &[x_bnsd])?;
        outputs.pop().ok_or_else(|| Error::Argument(format!("{OP}: no output")))
    }
}

/// Autograd node. Cosines and sines are contiguous.
struct Rotation {
    kernels: Kernels,
    cosines: Tensor,
    sines: Tensor,
}

impl Rotation {
    /// Rotates forward, or with `direction` -1 back.
    fn turn(&self, x_bnsd: &Tensor, direction: f32) -> Result<Tensor, BoxError> {
        let (size, angles) = (x_bnsd.size(), self.cosines.size());
        let (&[batch, heads, length, width], &[rows, 1, positions, dim]) = (size.as_slice(), angles.as_slice()) else {
            return Err(format!("{OP} of {size:?} by {angles:?}").into());
        };
        let fits = (rows == 1 || rows == batch) && positions == length && dim <= width && dim % 2 == 0;
        if !fits || self.sines.size() != angles || self.cosines.kind() != x_bnsd.kind() || self.sines.kind() != x_bnsd.kind() {
            return Err(format!("{OP} of {size:?} by {angles:?}").into());
        }
        let x = if x_bnsd.stride()[3] == 1 {
            x_bnsd.shallow_clone()
        } else {
            x_bnsd.f_contiguous()?
        };
        // Rows of heads, as the projections have them: attention reads either layout.
        let y = Tensor::f_empty([batch, length, heads, width], (x.kind(), x.device()))?.f_transpose(1, 2)?;
        let (from, to) = (x.stride(), y.stride());
        let angle_stride = if rows == 1 { 0 } else { length * dim };
        let arguments = [
            Argument::Tensor(&x),
            Argument::Tensor(&y),
            Argument::Tensor(&self.cosines),
            Argument::Tensor(&self.sines),
            Argument::Long(from[0]),
            Argument::Long(from[1]),
            Argument::Long(from[2]),
            Argument::Long(to[0]),
            Argument::Long(to[1]),
            Argument::Long(to[2]),
            Argument::Long(angle_stride),
            Argument::int(length)?,
            Argument::int(heads)?,
            Argument::int(width)?,
            Argument::int(dim)?,
            Argument::Float(direction),
        ];
        // The kernel counts the values of a position in an `int`.
        Argument::int(heads * width)?;
        self.kernels.run("rope", x.kind(), batch * length, &arguments)?;
        Ok(y)
    }
}

impl Function for Rotation {
    fn forward(&mut self, inputs: &[&Tensor]) -> Result<Vec<Tensor>, BoxError> {
        Ok(vec![self.turn(inputs[0], 1.0)?])
    }

    fn backward(&mut self, grads: &[Option<Tensor>]) -> Result<Vec<Option<Tensor>>, BoxError> {
        let Some(grad) = &grads[0] else { return Ok(vec![None]) };
        let grad = grad.f_to_kind(self.cosines.kind())?;
        Ok(vec![Some(self.turn(&grad, -1.0)?)])
    }
}
