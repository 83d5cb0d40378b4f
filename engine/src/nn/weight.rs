//! The weight of a linear: a parameter, or a frozen matrix in fewer bits.

use crate::autograd::one;
use crate::effects::{GemmKind, GemmMeter};
use crate::error::Result;
use crate::fp8::{Float8Tensor, Fp8Linear, Fp8Weight};
use crate::param_sync::Weight;
use crate::quantization::Nf4;
use neva_torch_ffi::{BoxError, Function, apply};
use tch::{Kind, Tensor};

/// Weight of a linear.
#[derive(Debug)]
pub(super) enum LinearWeight {
    /// In the data type of the computation.
    Plain(Weight),
    /// Frozen, in 4 bits; computed with in this data type.
    Nf4(Nf4, Kind),
    /// Computed with in FP8.
    Fp8(Fp8Linear, Fp8Values),
}

/// Values of a weight that is computed with in FP8.
#[derive(Debug)]
pub(super) enum Fp8Values {
    /// Trained, in the data type of the computation.
    Trained(Weight),
    /// Frozen, in FP8 alone; other computations see them in this data type.
    Frozen(Float8Tensor, Kind),
}

/// Input of linears, with its FP8 values if they need them.
#[derive(Debug)]
pub(super) struct LinearInput {
    pub(super) x: Tensor,
    fp8: Option<Float8Tensor>,
}

impl LinearWeight {
    /// Prepares an input for this linear and for others that share it.
    pub(super) fn prepare(&self, x: Tensor) -> Result<LinearInput> {
        let fp8 = match self {
            Self::Fp8(linear, values) => Some(linear.quantize_input(&x, matches!(values, Fp8Values::Trained(_)))?),
            Self::Plain(_) | Self::Nf4(..) => None,
        };
        Ok(LinearInput { x, fp8 })
    }

    /// Returns `x W^T + bias`; `meter` counts the products.
    pub(super) fn apply(&self, input: &LinearInput, bias: Option<&Tensor>, meter: &GemmMeter) -> Result<Tensor> {
        let x = &input.x;
        let y = match self {
            Self::Plain(weight) => {
                let weight = weight.get()?;
                let y = x.linear(weight, bias);
                meter.linear(x, weight, &y);
                return Ok(y);
            }
            Self::Nf4(weight, kind) => {
                let product = Product {
                    weight: weight.shallow_clone(),
                    kind: *kind,
                    meter: meter.clone(),
                };
                one(apply(product, &[x])?)?
            }
            Self::Fp8(linear, values) => {
                let weight = match values {
                    Fp8Values::Trained(weight) => Fp8Weight::Trained(weight.get()?),
                    Fp8Values::Frozen(values, _) => Fp8Weight::Frozen(values),
                };
                linear.apply(x, input.fp8.as_ref(), weight, meter)?
            }
        };
        Ok(match bias {
            Some(bias) => y + bias,
            None => y,
        })
    }

    /// Returns the values, without a gradient.
    pub(super) fn values(&self) -> Result<Tensor> {
        match self {
            Self::Plain(weight) | Self::Fp8(_, Fp8Values::Trained(weight)) => Ok(weight.get()?.detach()),
            Self::Nf4(weight, kind) => weight.dequantize(*kind),
            Self::Fp8(_, Fp8Values::Frozen(weight, kind)) => weight.dequantize(*kind),
        }
    }
}

/// `x W^T`. The weight is dequantised in either pass, and only its 4 bits are kept between them.
struct Product {
    weight: Nf4,
    kind: Kind,
    meter: GemmMeter,
}

impl Product {
    /// Counts a product of the rows of `x`, in either direction.
    fn count(&self, x: &Tensor, weight: &Tensor) {
        let sizes = weight.size();
        let (out, input) = (sizes[0], sizes[1]);
        let width = x.size().last().copied().unwrap_or(1).max(1);
        self.meter.product(GemmKind::of(x.kind()), [x.numel() as i64 / width, input, out]);
    }
}

impl Function for Product {
    fn forward(&mut self, inputs: &[&Tensor]) -> Result<Vec<Tensor>, BoxError> {
        let weight = self.weight.dequantize(self.kind)?;
        self.count(inputs[0], &weight);
        Ok(vec![inputs[0].f_linear(&weight, None::<Tensor>)?])
    }

    fn backward(&mut self, grads: &[Option<Tensor>]) -> Result<Vec<Option<Tensor>>, BoxError> {
        let Some(grad) = &grads[0] else { return Ok(vec![None]) };
        let weight = self.weight.dequantize(self.kind)?;
        self.count(grad, &weight);
        Ok(vec![Some(grad.f_matmul(&weight)?)])
    }
}
