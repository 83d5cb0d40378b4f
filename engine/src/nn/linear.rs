//! Linear maps that may be cut over the tensor axis, with an adapter beside them.

use crate::error::Result;
use crate::parallel::TensorRegion;
use neva_layout::Cut;
use tch::Tensor;

/// `y = x W^T + bias`, plus the adapter's share. Layout and adapter are independent of each other.
#[derive(Debug)]
pub struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
    cut: Cut,
    region: TensorRegion,
    adapter: Option<Lora>,
}

/// Low-rank adapter (arXiv:2106.09685): `scale * B A x`.
#[derive(Debug)]
pub struct Lora {
    /// `[r, in]`.
    pub a: Tensor,
    /// `[out, r]`.
    pub b: Tensor,
    /// `alpha / r`.
    pub scale: f64,
}

impl Linear {
    pub(super) fn new(weight: Tensor, bias: Option<Tensor>, cut: Cut, region: TensorRegion, adapter: Option<Lora>) -> Self {
        Self {
            weight,
            bias,
            cut,
            region,
            adapter,
        }
    }

    /// Applies the map. The input of a row-cut map is cut along its last dim, as a column-cut map leaves it.
    ///
    /// # Errors
    /// A collective failed.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let Cut::Row = self.cut else {
            return self.apply(x, &self.enter(x)?);
        };
        let y = self.region.leave(&x.linear(&self.weight, None::<Tensor>))?;
        let y = match &self.bias {
            Some(bias) => y + bias,
            None => y,
        };
        // A is cut like the weight, so its product is a partial sum too.
        Ok(match self.low_rank(x) {
            Some((lora, h)) => y + self.region.leave(&h)?.linear(&lora.b, None::<Tensor>) * lora.scale,
            None => y,
        })
    }

    /// `x` where the map takes it: inside the tensor-parallel region, if the map is cut.
    fn enter(&self, x: &Tensor) -> Result<Tensor> {
        match self.cut {
            Cut::Column | Cut::Vocab => self.region.enter(x),
            Cut::Replicate | Cut::Row => Ok(x.shallow_clone()),
        }
    }

    /// A map that is cut by columns or not at all, of `x_in`, which [`Self::enter`] made of `x`. The adapter takes `x`
    /// itself and enters the region after A: its gradient is whole there, and would count once for every rank if it
    /// went through the region's entry of `x`.
    fn apply(&self, x: &Tensor, x_in: &Tensor) -> Result<Tensor> {
        let y = x_in.linear(&self.weight, self.bias.as_ref());
        Ok(match self.low_rank(x) {
            Some((lora, h)) => y + self.enter(&h)?.linear(&lora.b, None::<Tensor>) * lora.scale,
            None => y,
        })
    }

    fn low_rank(&self, x: &Tensor) -> Option<(&Lora, Tensor)> {
        self.adapter.as_ref().map(|lora| (lora, x.linear(&lora.a, None::<Tensor>)))
    }
}

/// Maps of the same input (q, k and v; gate and up), which enters their region once if they are cut.
#[derive(Debug)]
pub struct ColumnLinears<const N: usize> {
    parts: [Linear; N],
}

impl<const N: usize> ColumnLinears<N> {
    pub(super) fn new(parts: [Linear; N]) -> Self {
        Self { parts }
    }

    /// Applies each map.
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
