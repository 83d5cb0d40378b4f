//! Tensor-parallel linears, with an optional adapter.

use super::region::TensorRegion;
use crate::error::Result;
use crate::param_sync::Weight;
use neva_layout::Cut;
use tch::Tensor;

/// `y = x W^T + bias`, plus the adapter's output. Layout and adapter are independent of each other.
#[derive(Debug)]
pub struct Linear {
    weight: Weight,
    bias: Option<Weight>,
    cut: Cut,
    region: TensorRegion,
    adapter: Option<Lora>,
}

/// Low-rank adapter (arXiv:2106.09685): `scale * B A x`.
#[derive(Debug)]
pub struct Lora {
    /// `[r, in]`.
    pub a: Weight,
    /// `[out, r]`.
    pub b: Weight,
    /// `alpha / r`.
    pub scale: f64,
}

impl Linear {
    pub(super) fn new(weight: Weight, bias: Option<Weight>, cut: Cut, region: TensorRegion, adapter: Option<Lora>) -> Self {
        Self {
            weight,
            bias,
            cut,
            region,
            adapter,
        }
    }

    /// Applies the linear. The input of a row-parallel linear is sharded along its last dim, as the output of a
    /// column-parallel one is.
    ///
    /// # Errors
    /// A collective failed.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let Cut::Row = self.cut else {
            return self.apply(x, &self.enter(x)?);
        };
        let y = self.region.leave(&x.linear(self.weight.get()?, None::<Tensor>))?;
        let y = match &self.bias {
            Some(bias) => y + bias.get()?,
            None => y,
        };
        // A is sharded like the weight, so its product is a partial sum, too.
        Ok(match self.low_rank(x)? {
            Some((lora, h)) => y + self.region.leave(&h)?.linear(lora.b.get()?, None::<Tensor>) * lora.scale,
            None => y,
        })
    }

    /// Returns `x` inside the tensor-parallel region, if the linear is sharded.
    fn enter(&self, x: &Tensor) -> Result<Tensor> {
        match self.cut {
            Cut::Column | Cut::Vocab => self.region.enter(x),
            Cut::Replicate | Cut::Row => Ok(x.shallow_clone()),
        }
    }

    /// Applies a column-parallel or replicated linear to `x_in`, which [`Self::enter`] made of `x`. The adapter takes `x`
    /// itself and enters the region after A: its gradient is whole there, and would count once for every rank if it
    /// went through the region's entry of `x`.
    fn apply(&self, x: &Tensor, x_in: &Tensor) -> Result<Tensor> {
        let bias = self.bias.as_ref().map(Weight::get).transpose()?;
        let y = x_in.linear(self.weight.get()?, bias);
        Ok(match self.low_rank(x)? {
            Some((lora, h)) => y + self.enter(&h)?.linear(lora.b.get()?, None::<Tensor>) * lora.scale,
            None => y,
        })
    }

    fn low_rank(&self, x: &Tensor) -> Result<Option<(&Lora, Tensor)>> {
        let Some(lora) = &self.adapter else { return Ok(None) };
        Ok(Some((lora, x.linear(lora.a.get()?, None::<Tensor>))))
    }
}

/// Linears of the same input (q, k and v; gate and up), which enters their region once if they are sharded.
#[derive(Debug)]
pub struct ColumnLinears<const N: usize> {
    parts: [Linear; N],
}

impl<const N: usize> ColumnLinears<N> {
    pub(super) fn new(parts: [Linear; N]) -> Self {
        Self { parts }
    }

    /// Applies each linear.
    ///
    /// # Errors
    /// A collective failed.
    pub fn forward(&self, x: &Tensor) -> Result<[Tensor; N]> {
        let x_in = self.parts[0].enter(x)?;
        let mut results = Vec::with_capacity(N);
        for part in &self.parts {
            results.push(part.apply(x, &x_in)?);
        }
        Ok(results.try_into().unwrap_or_else(|_| unreachable!("one result per part")))
    }
}
