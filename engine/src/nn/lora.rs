//! Low-rank adapters of linears (arXiv:2106.09685), also with trained lengths of rows (DoRA, arXiv:2402.09353).

use super::dropout::{Dropout, Mask, Part};
use super::outputs::OutputPositions;
use super::region::TensorRegion;
use super::weight::LinearWeight;
use crate::comm::Reduce;
use crate::effects::GemmMeter;
use crate::error::Result;
use crate::param_sync::Weight;
use neva_layout::Cut;
use std::sync::OnceLock;
use tch::{Kind, Tensor, no_grad};

/// Adapter of a linear: `scale * B A dropout(x)`.
#[derive(Debug)]
pub struct Lora {
    /// `[r, in]`, which the linears of a fused module share.
    pub(super) a: Weight,
    /// Name of A.
    pub(super) a_name: String,
    /// `[out, r]`.
    pub(super) b: Weight,
    pub(super) scale: f64,
    pub(super) dropout: Option<Dropout>,
    pub(super) magnitude: Option<Magnitude>,
    /// First channels of this rank's input and output.
    pub(super) first: [usize; 2],
    pub(super) meter: GemmMeter,
}

/// The output of A inside the tensor-parallel region, and what the adapters of one input share besides.
#[derive(Debug)]
pub(super) struct LowRank {
    pub(super) h: Tensor,
    /// Factor of the values that dropout kept.
    pub(super) factor: f64,
}

impl LowRank {
    /// Returns the rows of some positions of `[b, s, r]`.
    pub(super) fn at(&self, outputs: &OutputPositions) -> Result<Self> {
        Ok(Self {
            h: outputs.select(&self.h)?,
            factor: self.factor,
        })
    }
}

impl Lora {
    /// Returns dropout's mask for the adapter's input.
    pub(super) fn mask(&self, x: &Tensor, part: Part, first: usize) -> Result<Option<Mask>> {
        let dropout = self.dropout.as_ref();
        dropout.map_or(Ok(None), |dropout| dropout.before(x, part, first))
    }

    /// Returns whether dropout acts on the microbatch that is computed.
    pub(super) fn drops(&self) -> bool {
        self.dropout.as_ref().is_some_and(Dropout::acts)
    }

    /// Applies A to the input, with dropout. The input of a row-parallel linear begins with its own channels.
    pub(super) fn lower(&self, x: &Tensor, mask: Option<&Mask>) -> Result<Tensor> {
        let a = self.a.get()?;
        let x = mask.map_or_else(|| x.shallow_clone(), |mask| mask.apply(x));
        let h = x.linear(a, None::<Tensor>);
        self.meter.linear(&x, a, &h);
        Ok(h)
    }

    /// Applies B to A's output, with dropout and the scale.
    pub(super) fn raise(&self, low: &LowRank, part: Part) -> Result<Tensor> {
        let b = self.b.get()?;
        let y = low.h.linear(b, None::<Tensor>);
        self.meter.linear(&low.h, b, &y);
        let dropout = self.dropout.as_ref();
        let mask = dropout.map_or(Ok(None), |dropout| dropout.after(&y, part, self.first[1]))?;
        Ok(match mask {
            Some(mask) => mask.apply(&y) * (self.scale * mask.factor * low.factor),
            None => y * (self.scale * low.factor),
        })
    }
}

/// Trained lengths of the rows of an adapted weight.
#[derive(Debug)]
pub struct Magnitude {
    /// `[out]`.
    lengths: Weight,
    /// The sums of squares of the rows of a frozen weight.
    squares: OnceLock<Tensor>,
    /// True if the weight never changes.
    is_frozen: bool,
}

impl Magnitude {
    pub(super) fn new(lengths: Weight, is_frozen: bool) -> Self {
        Self {
            lengths,
            squares: OnceLock::new(),
            is_frozen,
        }
    }

    /// Returns the factor of each row: its trained length by that of `W + scale B A`. As in PEFT, no gradient goes through
    /// the latter.
    pub(super) fn gain(&self, weight: &LinearWeight, lora: &Lora, cut: Cut, region: &TensorRegion) -> Result<Tensor> {
        let lengths = self.lengths.get()?;
        let (a, b) = (lora.a.get()?, lora.b.get()?);
        let norms = no_grad(|| -> Result<Tensor> {
            let values = weight.values()?;
            let squares = match self.squares.get() {
                Some(known) => known.shallow_clone(),
                None => {
                    let squares = row_squares(&values)?;
                    if self.is_frozen {
                        // A lost race would store the same values.
                        let _ = self.squares.set(squares.shallow_clone());
                    }
                    squares
                }
            };
            row_norms(&values, &squares, [a, b], lora.scale, cut, region)
        })?;
        Ok((lengths.to_kind(Kind::Float) / norms).to_kind(lengths.kind()))
    }
}

/// Returns the sum of squares of each row.
pub(crate) fn row_squares(weight: &Tensor) -> Result<Tensor> {
    let values = weight.f_to_kind(Kind::Float)?;
    Ok(values.f_square()?.f_sum_dim_intlist([1].as_slice(), false, Kind::Float)?)
}

/// Returns the length of each row of `W + scale B A`, whose own rows have these sums of squares. The product is not formed: it
/// would take as much memory as the weight.
pub(crate) fn row_norms(
    weight: &Tensor,
    squares: &Tensor,
    [a, b]: [&Tensor; 2],
    scale: f64,
    cut: Cut,
    region: &TensorRegion,
) -> Result<Tensor> {
    let sum = |x: &Tensor| x.f_sum_dim_intlist([1].as_slice(), false, Kind::Float);
    let (b, a_transposed) = (b.f_to_kind(Kind::Float)?, a.f_transpose(0, 1)?);
    let mixed = weight.f_matmul(&a_transposed)?.f_to_kind(Kind::Float)?;
    let a = a.f_to_kind(Kind::Float)?;
    let gram = a.f_matmul(&a.f_transpose(0, 1)?)?;
    let crossed = sum(&b.f_mul(&mixed)?)?.f_mul_scalar(2.0 * scale)?;
    let own = sum(&b.f_matmul(&gram)?.f_mul(&b)?)?.f_mul_scalar(scale * scale)?;
    let total = squares.f_add(&crossed)?.f_add(&own)?;
    // The ranks of a row-parallel linear have different columns.
    if cut == Cut::Row && region.size() > 1 {
        region.group().all_reduce(&total, Reduce::Sum)?;
    }
    Ok(total.f_clamp_min(0.0)?.f_sqrt()?)
}
