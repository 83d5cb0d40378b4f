//! A linear whose GEMMs are computed in FP8: forward pass, gradient of the input (dgrad), gradient of the weight (wgrad).

use super::gemm::Gemm;
use super::quantizer::{Phase, Quantizer};
use super::tensor::Float8Tensor;
use crate::autograd::one;
use crate::effects::{GemmKind, GemmMeter};
use crate::error::{EngineError, Result};
use neva_torch_ffi::{BoxError, Function, apply};
use std::sync::{Arc, Mutex, PoisonError};
use tch::{Kind, Tensor};

/// The GEMMs of a linear in FP8, with the scaling state of its input, its weight and the gradient of its output.
#[derive(Debug)]
pub struct Fp8Linear {
    pub(super) input: Quantizer,
    pub(super) weight: Quantizer,
    pub(super) gradient: Quantizer,
    /// Computes the weight's gradient from FP8 operands.
    pub(super) wgrad: bool,
    pub(super) gemm: Gemm,
    pub(super) phase: Arc<Phase>,
    /// The weight in FP8, which all passes of a step share, and the version that it belongs to.
    pub(super) cache: Arc<Mutex<Option<(u64, Float8Tensor)>>>,
}

/// Weight of a linear in FP8, `[out, in]`.
#[derive(Debug, Clone, Copy)]
pub enum Fp8Weight<'a> {
    /// Trained values in the data type of the computation, which are quantised in each step.
    Trained(&'a Tensor),
    /// Frozen values in FP8.
    Frozen(&'a Float8Tensor),
}

impl Fp8Linear {
    /// Quantises an input `[.., in]`. Linears of the same input share the result. `trains`: a weight gets a gradient.
    ///
    /// # Errors
    /// A collective failed, or libtorch refused.
    pub fn quantize_input(&self, x: &Tensor, trains: bool) -> Result<Float8Tensor> {
        tch::no_grad(|| self.input.quantize(&rows(x)?, trains && self.wgrad))
    }

    /// Returns `x W^T` for `x` `[.., in]`. `quantized` is what [`Self::quantize_input`] returned for `x`, if anything did.
    /// `meter` counts the products of both passes.
    ///
    /// # Errors
    /// A collective failed, or libtorch refused.
    pub fn apply(&self, x: &Tensor, quantized: Option<&Float8Tensor>, weight: Fp8Weight<'_>, meter: &GemmMeter) -> Result<Tensor> {
        let node = Product {
            linear: self.shallow_clone(),
            input: quantized.map(Float8Tensor::shallow_clone),
            frozen: match weight {
                Fp8Weight::Trained(_) => None,
                Fp8Weight::Frozen(values) => Some(values.shallow_clone()),
            },
            saved: None,
            meter: meter.clone(),
        };
        match weight {
            Fp8Weight::Trained(values) => one(apply(node, &[x, values])?),
            Fp8Weight::Frozen(_) => one(apply(node, &[x])?),
        }
    }

    /// Returns a trained weight in FP8, quantised once a step.
    fn quantized_weight(&self, weight: &Tensor) -> Result<Float8Tensor> {
        let version = self.phase.version();
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, values)) = cache.as_ref()
            && *known == version
        {
            return Ok(values.shallow_clone());
        }
        let values = self.weight.quantize_both(&weight.detach())?;
        *cache = Some((version, values.shallow_clone()));
        Ok(values)
    }

    fn shallow_clone(&self) -> Self {
        Self {
            input: self.input.shallow_clone(),
            weight: self.weight.shallow_clone(),
            gradient: self.gradient.shallow_clone(),
            wgrad: self.wgrad,
            gemm: self.gemm,
            phase: self.phase.clone(),
            cache: self.cache.clone(),
        }
    }
}

/// Returns `[.., width]` as a contiguous matrix.
fn rows(x: &Tensor) -> Result<Tensor> {
    let width = x.size().last().copied().unwrap_or(1);
    Ok(x.f_reshape([-1, width])?.f_contiguous()?)
}

/// Returns rows and columns of a matrix.
fn size(x: &Tensor) -> [i64; 2] {
    let size = x.size();
    [size[0], size[1]]
}

/// Autograd node of a linear: inputs are `x`, and the weight if it is trained.
struct Product {
    linear: Fp8Linear,
    /// The input in FP8, if it is quantised already.
    input: Option<Float8Tensor>,
    /// The weight, if it is frozen.
    frozen: Option<Float8Tensor>,
    saved: Option<Saved>,
    meter: GemmMeter,
}

/// Values for the backward pass.
struct Saved {
    weight: Float8Tensor,
    input: SavedInput,
    /// True if the input needs a gradient.
    dgrad: bool,
    size: Vec<i64>,
    kind: Kind,
}

/// The input for the weight's gradient.
enum SavedInput {
    /// The weight is frozen.
    Unused,
    /// `[t, in]`, to be transposed.
    Rows(Float8Tensor),
    /// `[in, t]`.
    Columns(Float8Tensor),
    /// `[t, in]` before quantisation.
    Plain(Tensor),
}

impl Product {
    /// Returns the product `a b^T` of FP8 matrices, and counts it.
    fn multiply(&self, a: &Float8Tensor, b: &Float8Tensor, kind: Kind, fast: bool) -> Result<Tensor> {
        let ([m, k], [n, _]) = (a.size(), b.size());
        self.meter.product(self.linear.gemm.effect(a), [m, k, n]);
        self.linear.gemm.multiply(a, b, kind, fast)
    }

    fn gradients(&self, grad: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let linear = &self.linear;
        let saved = self
            .saved
            .as_ref()
            .ok_or_else(|| EngineError::Bug("the backward pass of a linear comes before its forward pass".into()))?;
        let g_to = rows(grad)?;
        let transposed = matches!(saved.input, SavedInput::Rows(_) | SavedInput::Columns(_));
        let quantized = linear.gradient.quantize(&g_to, transposed)?;
        let dx = if saved.dgrad {
            let weight_io = saved.weight.transposed()?;
            let dx_ti = self.multiply(&quantized, &weight_io, saved.kind, false)?;
            Some(dx_ti.f_reshape(saved.size.as_slice())?)
        } else {
            None
        };
        let wgrad = |input_it: &Float8Tensor| -> Result<Tensor> {
            let g_ot = linear.gradient.transposed(&g_to, &quantized)?;
            self.multiply(&g_ot, input_it, saved.kind, false)
        };
        let dw = match &saved.input {
            SavedInput::Unused => None,
            SavedInput::Rows(input) => Some(wgrad(&input.transposed()?)?),
            SavedInput::Columns(input) => Some(wgrad(input)?),
            SavedInput::Plain(x_ti) => {
                let ([t, o], [_, i]) = (size(&g_to), size(x_ti));
                self.meter.product(GemmKind::of(saved.kind), [o, t, i]);
                Some(g_to.f_transpose(0, 1)?.f_matmul(x_ti)?)
            }
        };
        Ok(match self.frozen {
            Some(_) => vec![dx],
            None => vec![dx, dw],
        })
    }
}

impl Function for Product {
    fn forward(&mut self, inputs: &[&Tensor]) -> Result<Vec<Tensor>, BoxError> {
        let (x, linear) = (inputs[0], &self.linear);
        let x_ti = rows(x)?;
        let trains = inputs.get(1).is_some_and(|weight| weight.requires_grad());
        let input = match self.input.take() {
            Some(input) => input,
            None => linear.input.quantize(&x_ti, trains && linear.wgrad)?,
        };
        let weight = match (&self.frozen, inputs.get(1)) {
            (Some(frozen), _) => frozen.shallow_clone(),
            (None, Some(weight)) => linear.quantized_weight(weight)?,
            (None, None) => return Err(EngineError::Bug("a linear without a weight".into()).into()),
        };
        let y_to = self.multiply(&input, &weight, x.kind(), true)?;
        let mut size = x.size();
        if let Some(width) = size.last_mut() {
            *width = weight.size()[0];
        }
        let y = y_to.f_reshape(size.as_slice())?;
        self.saved = Some(Saved {
            weight,
            input: match (trains, linear.wgrad) {
                (false, _) => SavedInput::Unused,
                (true, false) => SavedInput::Plain(x_ti),
                (true, true) if input.has_transposed() || linear.input.transposes_values() => {
                    SavedInput::Columns(linear.input.transposed(&x_ti, &input)?)
                }
                (true, true) => SavedInput::Rows(input),
            },
            dgrad: x.requires_grad(),
            size: x.size(),
            kind: x.kind(),
        });
        Ok(vec![y])
    }

    fn backward(&mut self, grads: &[Option<Tensor>]) -> Result<Vec<Option<Tensor>>, BoxError> {
        match &grads[0] {
            Some(grad) => Ok(self.gradients(grad)?),
            None if self.frozen.is_some() => Ok(vec![None]),
            None => Ok(vec![None, None]),
        }
    }
}
