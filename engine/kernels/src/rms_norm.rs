//! RMSNorm over the last dim (arXiv:1910.07467), as `transformers.LlamaRMSNorm`: statistics in fp32, the weight applied in the
//! input's data type.

use crate::kernels::Kernels;
use crate::launch::{Argument, torch};
use neva_torch_ffi::{BoxError, Error, Function, Result, apply};
use tch::{Kind, TchError, Tensor};

const OP: &str = "RMSNorm";
/// Rows whose gradients of the weight one block sums.
const SLAB: i64 = 128;

/// Returns `x / sqrt(mean(x^2) + eps) * weight` of `[.., h]` and `[h]`.
///
/// # Errors
/// The shapes do not fit, or libtorch or the GPU refused.
pub fn rms_norm(x: &Tensor, weight_h: &Tensor, eps: f64) -> Result<Tensor> {
    match Kernels::for_all("rms_norm", &[x, weight_h]) {
        Some(kernels) => kernels.rms_norm(x, weight_h, eps),
        None => formula(x, weight_h, eps).map_err(torch(OP)),
    }
}

/// libtorch's formula.
pub(crate) fn formula(x: &Tensor, weight_h: &Tensor, eps: f64) -> std::result::Result<Tensor, TchError> {
    let x32 = x.f_to_kind(Kind::Float)?;
    let mean = x32.f_square()?.f_mean_dim(-1, true, Kind::Float)?;
    let scale = mean.f_add_scalar(eps)?.f_rsqrt()?;
    weight_h.f_mul(&x32.f_mul(&scale)?.f_to_kind(x.kind())?)
}

impl Kernels {
    /// As [`rms_norm`], with kernels.
    pub(crate) fn rms_norm(&self, x: &Tensor, weight_h: &Tensor, eps: f64) -> Result<Tensor> {
        let node = RmsNorm {
            kernels: self.clone(),
            eps: eps as f32,
            saved: None,
        };
        let mut outputs = apply(node, &[x, weight_h])?;
        outputs.pop().ok_or_else(|| Error::Argument(format!("{OP}: no output")))
    }
}

struct RmsNorm {
    kernels: Kernels,
    eps: f32,
    saved: Option<Saved>,
}

/// Values for the backward pass, contiguous.
struct Saved {
    x: Tensor,
    weight_h: Tensor,
    /// `1 / sqrt(mean(x^2) + eps)` of each row, in fp32.
    inverse: Tensor,
    /// Gradients that are needed: of the input, and of the weight.
    needed: [bool; 2],
}

impl Function for RmsNorm {
    fn forward(&mut self, inputs: &[&Tensor]) -> Result<Vec<Tensor>, BoxError> {
        let (size, width) = (inputs[0].size(), inputs[1].numel() as i64);
        if size.last() != Some(&width) || width == 0 || inputs[1].kind() != inputs[0].kind() {
            return Err(format!("{OP} of {size:?} with a weight {:?}", inputs[1].size()).into());
        }
        let (x, weight_h) = (inputs[0].f_contiguous()?, inputs[1].f_contiguous()?);
        let rows = x.numel() as i64 / width;
        let y = Tensor::f_empty(&size, (x.kind(), x.device()))?;
        let inverse = Tensor::f_empty([rows], (Kind::Float, x.device()))?;
        let arguments = [
            Argument::Tensor(&x),
            Argument::Tensor(&weight_h),
            Argument::Tensor(&y),
            Argument::Tensor(&inverse),
            Argument::Long(width),
            Argument::Float(self.eps),
        ];
        self.kernels.run("rms_norm", x.kind(), rows, &arguments)?;
        self.saved = Some(Saved {
            x,
            weight_h,
            inverse,
            needed: [inputs[0].requires_grad(), inputs[1].requires_grad()],
        });
        Ok(vec![y])
    }

    fn backward(&mut self, grads: &[Option<Tensor>]) -> Result<Vec<Option<Tensor>>, BoxError> {
        let (Some(grad), Some(saved)) = (&grads[0], &self.saved) else {
            return Ok(vec![None, None]);
        };
        let grad = grad.f_to_kind(saved.x.kind())?.f_contiguous()?;
        let [input, weight] = saved.needed;
        Ok(vec![
            input.then(|| self.input_grad(saved, &grad)).transpose()?,
            weight.then(|| self.weight_grad(saved, &grad)).transpose()?,
        ])
    }
}

impl RmsNorm {
    fn input_grad(&self, Saved { x, weight_h, inverse, .. }: &Saved, grad: &Tensor) -> Result<Tensor, BoxError> {
        let dx = Tensor::f_empty(x.size(), (x.kind(), x.device()))?;
        let arguments = [
            Argument::Tensor(grad),
            Argument::Tensor(x),
            Argument::Tensor(weight_h),
            Argument::Tensor(inverse),
            Argument::Tensor(&dx),
            Argument::Long(weight_h.numel() as i64),
        ];
        self.kernels.run("rms_norm_input_grad", x.kind(), inverse.size()[0], &arguments)?;
        Ok(dx)
    }

    fn weight_grad(&self, Saved { x, weight_h, inverse, .. }: &Saved, grad: &Tensor) -> Result<Tensor, BoxError> {
        let (rows, width) = (inverse.size()[0], weight_h.numel() as i64);
        let slabs = (rows + SLAB - 1) / SLAB;
        let sums = Tensor::f_empty([slabs, width], (Kind::Float, x.device()))?;
        let arguments = [
            Argument::Tensor(grad),
            Argument::Tensor(x),
            Argument::Tensor(inverse),
            Argument::Tensor(&sums),
            Argument::Long(rows),
            Argument::Long(width),
            Argument::Long(SLAB),
        ];
        let across = (width + 63) / 64;
        self.kernels.run("rms_norm_weight_grad", x.kind(), slabs * across, &arguments)?;
        let sum = sums.f_sum_dim_intlist([0].as_slice(), false, Kind::Float)?;
        Ok(sum.f_to_kind(x.kind())?.f_view_as(weight_h)?)
    }
}
