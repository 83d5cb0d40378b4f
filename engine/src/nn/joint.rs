//! Linears of one input, with their adapters, as one autograd node.
//!
//! The adapters' A are one matrix; B adds to the base's product, and each gradient of the input to the one before it, inside
//! the matrix product. So no sum and no scaled copy of an output exists by itself, and only the input and A's output are
//! saved.

use super::lora::Lora;
use crate::effects::{GemmKind, GemmMeter};
use crate::error::Result;
use crate::param_sync::Weight;
use neva_torch_ffi::{BoxError, Function, apply, is_grad_enabled};
use tch::{TchError, Tensor};

/// A linear that such a node can compute: a whole matrix on this rank, with at most a plain adapter.
pub(super) struct JointPart<'a> {
    pub(super) weight: &'a Weight,
    pub(super) bias: Option<&'a Weight>,
    pub(super) adapter: Option<&'a Lora>,
    pub(super) meter: &'a GemmMeter,
}

/// Applies `parts` to `x`. Returns one result for each.
pub(super) fn joint(parts: &[JointPart<'_>], x: &Tensor) -> Result<Vec<Tensor>> {
    // Inputs of the node: x, weights, biases, each A once, and B.
    let mut inputs = vec![x];
    let mut node = Joint::default();
    let mut names: Vec<&str> = Vec::new();
    let mut lows = Vec::new();
    for part in parts {
        let mut take = |tensor| {
            inputs.push(tensor);
            inputs.len() - 1
        };
        let (weight, bias) = (
            take(part.weight.get()?),
            part.bias.map(|bias| bias.get().map(&mut take)).transpose()?,
        );
        let low = match part.adapter {
            None => None,
            Some(lora) => {
                let known = names.iter().position(|name| *name == lora.a_name);
                let a = match known {
                    Some(known) => known,
                    None => {
                        names.push(&lora.a_name);
                        lows.push(take(lora.a.get()?));
                        lows.len() - 1
                    }
                };
                Some(Low {
                    a,
                    b: take(lora.b.get()?),
                    scale: lora.scale,
                })
            }
        };
        node.parts.push(Part { weight, bias, low });
    }
    node.lows = lows;
    let meters: Vec<_> = parts
        .iter()
        .map(|part| (part.meter, part.adapter.map(|lora| &lora.meter)))
        .collect();
    node.count(&meters, &inputs);
    Ok(apply(node, &inputs)?)
}

/// One linear: the places of its tensors among the inputs of the node.
#[derive(Debug, Clone, Copy)]
struct Part {
    weight: usize,
    bias: Option<usize>,
    low: Option<Low>,
}

/// Its adapter: the number of A among the node's, the place of B, and the scale.
#[derive(Debug, Clone, Copy)]
struct Low {
    a: usize,
    b: usize,
    scale: f64,
}

#[derive(Default)]
struct Joint {
    parts: Vec<Part>,
    /// Places of the matrices A.
    lows: Vec<usize>,
    saved: Option<Saved>,
}

struct Saved {
    /// Shape of the input, which is saved as rows.
    size: Vec<i64>,
    inputs: Vec<Tensor>,
    needed: Vec<bool>,
    /// All A, `[r of all, in]`, and their output `[t, r of all]`; undefined without adapters.
    a: Tensor,
    h: Tensor,
    /// First row of each A, and the end.
    starts: Vec<i64>,
}

impl Joint {
    /// Counts the products of both passes.
    fn count(&self, meters: &[(&GemmMeter, Option<&GemmMeter>)], inputs: &[&Tensor]) {
        let x = inputs[0];
        let recorded = is_grad_enabled();
        let needs = |place: usize| recorded && inputs[place].requires_grad();
        let rows = x.numel() as i64 / x.size().last().copied().unwrap_or(1).max(1);
        let count = |meter: &GemmMeter, place: usize, input_grad: bool| {
            let size = inputs[place].size();
            for _ in 0..1 + usize::from(input_grad) + usize::from(needs(place)) {
                meter.product(GemmKind::of(x.kind()), [rows, size[1], size[0]]);
            }
        };
        let mut counted = vec![false; self.lows.len()];
        for (part, (base, adapter)) in self.parts.iter().zip(meters) {
            count(base, part.weight, needs(0));
            let (Some(low), Some(adapter)) = (&part.low, adapter) else {
                continue;
            };
            let a = self.lows[low.a];
            if !std::mem::replace(&mut counted[low.a], true) {
                count(adapter, a, needs(0));
            }
            count(adapter, low.b, needs(0) || needs(a));
        }
    }

    /// Returns the columns of A's output that an adapter reads.
    fn columns(saved: &Saved, of: &Tensor, a: usize) -> Result<Tensor, TchError> {
        of.f_narrow(1, saved.starts[a], saved.starts[a + 1] - saved.starts[a])
    }
}

/// Returns `[.., width]` as rows.
fn rows(x: &Tensor) -> Result<Tensor, TchError> {
    let width = x.size().last().copied().unwrap_or(1);
    x.f_reshape([-1, width])
}

impl Function for Joint {
    fn forward(&mut self, inputs: &[&Tensor]) -> Result<Vec<Tensor>, BoxError> {
        let x = rows(inputs[0])?;
        let mut starts = vec![0];
        for place in &self.lows {
            starts.push(starts[starts.len() - 1] + inputs[*place].size()[0]);
        }
        let all: Vec<_> = self.lows.iter().map(|place| inputs[*place]).collect();
        let (a, h) = match &all[..] {
            [] => (Tensor::new(), Tensor::new()),
            [a] => (a.detach(), x.f_linear(a, None::<Tensor>)?),
            all => {
                let a = Tensor::f_cat(all, 0)?;
                let h = x.f_linear(&a, None::<Tensor>)?;
                (a, h)
            }
        };
        let mut saved = Saved {
            size: inputs[0].size(),
            inputs: Vec::new(),
            needed: inputs.iter().map(|input| input.requires_grad()).collect(),
            a,
            h,
            starts,
        };
        let mut outputs = Vec::with_capacity(self.parts.len());
        let outer = inputs[0].size();
        for part in &self.parts {
            let weight = inputs[part.weight];
            let mut y = x.f_linear(weight, part.bias.map(|bias| inputs[bias]))?;
            if let Some(low) = &part.low {
                let h = Self::columns(&saved, &saved.h, low.a)?.f_mul_scalar(low.scale)?;
                y = y.f_addmm_(&h, &inputs[low.b].f_tr()?)?;
            }
            let size: Vec<_> = outer[..outer.len() - 1].iter().copied().chain([weight.size()[0]]).collect();
            outputs.push(y.f_view(size.as_slice())?);
        }
        saved.inputs = inputs.iter().map(|input| input.detach()).collect();
        saved.inputs[0] = x.detach();
        self.saved = Some(saved);
        Ok(outputs)
    }

    fn backward(&mut self, grads: &[Option<Tensor>]) -> Result<Vec<Option<Tensor>>, BoxError> {
        let Some(saved) = &self.saved else {
            return Err("the backward pass comes before the forward pass".into());
        };
        let (x, inputs) = (&saved.inputs[0], &saved.inputs);
        let mut results: Vec<Option<Tensor>> = inputs.iter().map(|_| None).collect();
        let low_needed = saved.needed[0] || self.lows.iter().any(|place| saved.needed[*place]);
        // Gradient of A's output, and the gradient of x so far.
        let mut dh: Option<Tensor> = None;
        let mut dx: Option<Tensor> = None;
        for (part, grad) in self.parts.iter().zip(grads) {
            let Some(grad) = grad else { continue };
            let grad = rows(grad)?.f_to_kind(x.kind())?;
            if saved.needed[0] {
                let weight = &inputs[part.weight];
                dx = Some(match dx.take() {
                    Some(mut dx) => dx.f_addmm_(&grad, weight)?,
                    None => grad.f_mm(weight)?,
                });
            }
            if saved.needed[part.weight] {
                results[part.weight] = Some(grad.f_tr()?.f_mm(x)?);
            }
            if let Some(bias) = part.bias.filter(|bias| saved.needed[*bias]) {
                results[bias] = Some(grad.f_sum_dim_intlist([0].as_slice(), false, x.kind())?);
            }
            let Some(low) = &part.low else { continue };
            if saved.needed[low.b] {
                let h = Self::columns(saved, &saved.h, low.a)?;
                // The product of few rows is faster than that of few columns.
                let transposed = h.f_tr()?.f_mm(&grad)?.f_mul_scalar_(low.scale)?;
                results[low.b] = Some(transposed.f_tr()?.f_contiguous()?);
            }
            if low_needed {
                let all = match dh.take() {
                    Some(all) => all,
                    None => saved.h.f_zeros_like()?,
                };
                // Several linears may share an A.
                let _ = Self::columns(saved, &all, low.a)?.f_add_(&grad.f_mm(&inputs[low.b])?.f_mul_scalar_(low.scale)?)?;
                dh = Some(all);
            }
        }
        if let Some(dh) = &dh {
            if saved.needed[0] {
                dx = Some(match dx.take() {
                    Some(mut dx) => dx.f_addmm_(dh, &saved.a)?,
                    None => dh.f_mm(&saved.a)?,
                });
            }
            if self.lows.iter().any(|place| saved.needed[*place]) {
                let da = dh.f_tr()?.f_mm(x)?;
                for (index, place) in self.lows.iter().enumerate().filter(|(_, place)| saved.needed[**place]) {
                    let own = da.f_narrow(0, saved.starts[index], saved.starts[index + 1] - saved.starts[index])?;
                    results[*place] = Some(own);
                }
            }
        }
        results[0] = dx.map(|dx| dx.f_view(saved.size.as_slice())).transpose()?;
        Ok(results)
    }
}
