//! Tensor-parallel linears, with an optional adapter.

use super::dropout::Part;
use super::joint::{JointPart, joint};
use super::lora::{Lora, LowRank};
use super::outputs::OutputPositions;
use super::region::TensorRegion;
use super::weight::{LinearInput, LinearWeight};
use crate::autograd::one;
use crate::effects::GemmMeter;
use crate::error::{EngineError, Result};
use crate::param_sync::Weight;
use neva_layout::Cut;
use tch::Tensor;

/// `y = x W^T + bias`, plus the adapter's output. Layout and adapter are independent of each other.
#[derive(Debug)]
pub struct Linear {
    pub(super) weight: LinearWeight,
    pub(super) bias: Option<Weight>,
    cut: Cut,
    pub(super) region: TensorRegion,
    pub(super) adapter: Option<Box<Lora>>,
    pub(super) meter: GemmMeter,
}

impl Linear {
    pub(super) fn new(
        (weight, bias): (LinearWeight, Option<Weight>),
        cut: Cut,
        region: TensorRegion,
        adapter: Option<Lora>,
        meter: GemmMeter,
    ) -> Self {
        Self {
            weight,
            bias,
            cut,
            region,
            adapter: adapter.map(Box::new),
            meter,
        }
    }

    /// Applies the linear. The input of a row-parallel linear is sharded along its last dim, as the output of a
    /// column-parallel one is.
    ///
    /// # Errors
    /// A collective failed.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        // Without an adapter there is nothing to gain.
        if let Some(part) = self.joint_part().filter(|part| part.adapter.is_some()) {
            return one(joint(&[part], x)?);
        }
        match self.cut {
            Cut::Row => self.apply_row(x),
            _ => self.apply(&self.weight.prepare(self.enter(x)?)?, self.low_rank(x)?.as_ref()),
        }
    }

    /// Returns the linear for a joint node; `None` if it is cut or quantised, or has another than a plain adapter.
    fn joint_part(&self) -> Option<JointPart<'_>> {
        let LinearWeight::Plain(weight) = &self.weight else {
            return None;
        };
        let adapter = self.adapter.as_deref();
        let is_plain = adapter.is_none_or(|lora| lora.magnitude.is_none() && !lora.drops());
        (is_plain && self.region.size() == 1).then_some(JointPart {
            weight,
            bias: self.bias.as_ref(),
            adapter,
            meter: &self.meter,
        })
    }

    /// Returns the product with the base weight.
    fn base(&self, input: &LinearInput, bias: Option<&Tensor>) -> Result<Tensor> {
        self.weight.apply(input, bias, &self.meter)
    }

    /// Returns `x` inside the tensor-parallel region, if the linear is sharded.
    fn enter(&self, x: &Tensor) -> Result<Tensor> {
        match self.cut {
            Cut::Column | Cut::Vocab => self.region.enter(x),
            Cut::Replicate | Cut::Row => Ok(x.shallow_clone()),
        }
    }

    /// Returns A's output, inside the region of a column-parallel linear. The adapter takes `x` from outside the region: its
    /// gradient is whole there, and would count once for every rank if it went through the region's entry of `x`.
    fn low_rank(&self, x: &Tensor) -> Result<Option<LowRank>> {
        let Some(lora) = &self.adapter else { return Ok(None) };
        let mask = lora.mask(x, self.region.outside(), 0)?;
        Ok(Some(LowRank {
            h: self.enter(&lora.lower(x, mask.as_ref())?)?,
            factor: mask.map_or(1.0, |mask| mask.factor),
        }))
    }

    /// Applies a column-parallel or replicated linear to an input that [`Self::enter`] returned. `low` is the output of the
    /// adapter's A.
    fn apply(&self, input: &LinearInput, low: Option<&LowRank>) -> Result<Tensor> {
        let bias = self.bias.as_ref().map(Weight::get).transpose()?;
        let (Some(lora), Some(low)) = (&self.adapter, low) else {
            return self.base(input, bias);
        };
        let inside = match self.cut {
            Cut::Replicate => self.region.outside(),
            _ => Part::WHOLE,
        };
        let low = lora.raise(low, inside)?;
        let Some(magnitude) = &lora.magnitude else {
            return Ok(self.base(input, bias)? + low);
        };
        let gain = magnitude.gain(&self.weight, lora, self.cut, &self.region)?;
        let y = self.base(input, None)?;
        let y = match lora.mask(&input.x, inside, 0)? {
            Some(mask) => {
                let dropped = self.weight.prepare(mask.apply(&input.x) * mask.factor)?;
                y + self.base(&dropped, None)? * (&gain - 1.0) + low * &gain
            }
            None => (y + low) * &gain,
        };
        Ok(match bias {
            Some(bias) => y + bias,
            None => y,
        })
    }

    /// Applies a row-parallel linear. A is sharded like the weight, so its product is a partial sum, too.
    fn apply_row(&self, x: &Tensor) -> Result<Tensor> {
        let y = self.region.leave(&self.base(&self.weight.prepare(x.shallow_clone())?, None)?)?;
        let with_bias = |y: Tensor| -> Result<Tensor> {
            Ok(match &self.bias {
                Some(bias) => y + bias.get()?,
                None => y,
            })
        };
        let Some(lora) = &self.adapter else { return with_bias(y) };
        let mask = lora.mask(x, Part::WHOLE, lora.first[0])?;
        let low = LowRank {
            h: self.region.leave(&lora.lower(x, mask.as_ref())?)?,
            factor: mask.as_ref().map_or(1.0, |mask| mask.factor),
        };
        let low = lora.raise(&low, self.region.outside())?;
        let Some(magnitude) = &lora.magnitude else {
            return Ok(with_bias(y)? + low);
        };
        let gain = magnitude.gain(&self.weight, lora, self.cut, &self.region)?;
        with_bias(match mask {
            Some(mask) => {
                let dropped = self.weight.prepare(mask.apply(x) * mask.factor)?;
                let dropped = self.base(&dropped, None)?;
                y + self.region.leave(&dropped)? * (&gain - 1.0) + low * &gain
            }
            None => (y + low) * &gain,
        })
    }
}

/// Linears of the same input (q, k and v; gate and up), which enters their region once if they are sharded. A that several of
/// them share is applied once.
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
        self.forward_first_at(x, &OutputPositions::All)
    }

    /// Applies each linear to `[b, s, h]`; the first one at `first` only, with zeros at the other positions.
    ///
    /// # Errors
    /// A collective failed.
    pub fn forward_first_at(&self, x: &Tensor, first: &OutputPositions) -> Result<[Tensor; N]> {
        let parts: Option<Vec<_>> = self.parts.iter().map(Linear::joint_part).collect();
        let mut results = match (parts.filter(|_| N > 1), first) {
            (Some(parts), OutputPositions::All) => joint(&parts, x)?,
            (Some(parts), OutputPositions::At(_)) => {
                let own = self.parts[0].forward(&first.select(x)?)?;
                std::iter::once(own).chain(joint(&parts[1..], x)?).collect()
            }
            (None, _) => self.each(x, first)?,
        };
        if let (OutputPositions::At(_), &[b, s, _]) = (first, &x.size()[..]) {
            results[0] = first.place(&results[0], [b, s])?;
        }
        results
            .try_into()
            .map_err(|_| EngineError::Bug("linears of one input have one result each".into()))
    }

    /// Applies each linear by itself, to an input that enters the region once.
    fn each(&self, x: &Tensor, first: &OutputPositions) -> Result<Vec<Tensor>> {
        let entered = self.parts[0].enter(x)?;
        let input = self.parts[0].weight.prepare(entered.shallow_clone())?;
        let mut results = Vec::with_capacity(N);
        let mut shared: Option<(&str, LowRank)> = None;
        for (index, part) in self.parts.iter().enumerate() {
            let name = part.adapter.as_ref().map(|lora| lora.a_name.as_str());
            if shared.as_ref().map(|(name, _)| *name) != name {
                shared = part.low_rank(x)?.and_then(|low| Some((name?, low)));
            }
            let low = shared.as_ref().map(|(_, low)| low);
            results.push(match first {
                OutputPositions::At(_) if index == 0 => {
                    let low = low.map(|low| low.at(first)).transpose()?;
                    part.apply(&part.weight.prepare(first.select(&entered)?)?, low.as_ref())?
                }
                _ => part.apply(&input, low)?,
            });
        }
        Ok(results)
    }
}
