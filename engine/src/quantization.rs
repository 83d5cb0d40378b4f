//! Matrices in 4 bits: NormalFloat in blocks of 64 (QLoRA, arXiv:2305.14314), as bitsandbytes' `quantize_4bit` with
//! `quant_type="nf4"` and `compress_statistics=True`.
//!
//! Each block has a scale, its largest magnitude. The scales less their mean are quantised in turn, to 8 bits in blocks of 256
//! (double quantisation). A value takes 4 bits, its share of the scales 8/64 + 32/16384 bits.
//!
//! A cut matrix keeps the scales of the whole one, so that all layouts compute with the same values.

mod codes;

use crate::error::{EngineError, Result};
use crate::fp8::Float8Tensor;
use codes::Codes;
use neva_layout::{BlockCut, NF4_BLOCK, ParamSpec, block_cut};
use tch::{Kind, Tensor};

/// Values of a block.
const BLOCK: i64 = NF4_BLOCK as i64;

/// Scales of a block.
const SCALES: i64 = 256;

/// Smallest scale that values are divided by, as in bitsandbytes.
const TINY: f64 = 1e-38;

/// A frozen weight in fewer bits, of which no other copy is kept.
#[derive(Debug)]
pub enum Quantized {
    /// In 4 bits.
    Nf4(Nf4),
    /// In FP8.
    Fp8(Float8Tensor),
}

impl Quantized {
    /// Returns the values in this data type.
    ///
    /// # Errors
    /// libtorch refused (out of memory).
    pub fn dequantize(&self, kind: Kind) -> Result<Tensor> {
        match self {
            Self::Nf4(values) => values.dequantize(kind),
            Self::Fp8(values) => values.dequantize(kind),
        }
    }

    /// Returns the tensor that holds the quantised values.
    pub fn packed(&self) -> &Tensor {
        match self {
            Self::Nf4(values) => values.packed(),
            Self::Fp8(values) => values.data(),
        }
    }

    /// Returns the size in memory, in bytes.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Nf4(values) => values.bytes(),
            Self::Fp8(values) => values.bytes(),
        }
    }
}

/// A matrix in 4 bits, or a rank's part of one.
#[derive(Debug)]
pub struct Nf4 {
    shape: [i64; 2],
    /// Two values in each byte, the first in the upper half.
    packed: Tensor,
    /// The scale of each block, in 8 bits.
    scales: Tensor,
    /// The scale of each block of scales of the whole matrix.
    outer_scales: Tensor,
    /// The mean of the scales of the whole matrix.
    offset: Tensor,
    /// Places of the blocks in the whole matrix.
    place: Place,
    codes: Codes,
}

/// Places of a rank's blocks in the whole matrix: `rows` runs of `each` blocks, which begin `stride` blocks apart.
#[derive(Debug, Clone, Copy)]
struct Place {
    first: i64,
    rows: i64,
    each: i64,
    stride: i64,
}

impl Nf4 {
    /// Quantises a matrix.
    ///
    /// # Errors
    /// It is no matrix, or libtorch refused.
    pub fn quantize(weight: &Tensor) -> Result<Self> {
        let [rows, columns] = <[i64; 2]>::try_from(weight.size())
            .map_err(|size| EngineError::Bug(format!("only matrices have 4-bit values, not {size:?}")))?;
        let codes = Codes::new(weight.device())?;
        let values = weight.f_reshape([-1])?.f_to_kind(Kind::Float)?;
        let (scaled, absmax) = scale(&values, BLOCK)?;
        let even = scaled.f_constant_pad_nd([0, scaled.numel() as i64 % 2])?;
        let pairs = even
            .f_bucketize(&codes.nf4_bounds, true, false)?
            .f_to_kind(Kind::Uint8)?
            .f_view([-1, 2])?;
        let packed = pairs.f_select(1, 0)?.f_mul_scalar(16)?.f_add(&pairs.f_select(1, 1)?)?;
        let offset = absmax.f_mean(Kind::Float)?;
        let (scaled, outer_scales) = scale(&absmax.f_sub(&offset)?, SCALES)?;
        let scales = scaled.f_bucketize(&codes.dynamic_bounds, true, false)?.f_to_kind(Kind::Uint8)?;
        Ok(Self {
            shape: [rows, columns],
            place: Place {
                first: 0,
                rows: 1,
                each: scales.size()[0],
                stride: 0,
            },
            packed,
            scales,
            outer_scales,
            offset,
            codes,
        })
    }

    /// Returns the part of a whole matrix that a tensor-parallel rank holds.
    ///
    /// # Errors
    /// A border is within a block.
    pub fn cut(self, spec: &ParamSpec, tp_rank: usize, tp: usize) -> Result<Self> {
        let Some(cut) = block_cut(spec, tp_rank, tp).map_err(EngineError::Bug)? else {
            return Ok(self);
        };
        let BlockCut {
            first_row,
            rows,
            first_column,
            columns,
        } = cut;
        let [first_row, rows, first_column, columns] = [first_row, rows, first_column, columns].map(|number| number as i64);
        let whole_columns = self.shape[1];
        let (packed, scales, place) = if columns == whole_columns {
            let (first, len) = (first_row * columns, rows * columns);
            let first_block = first / BLOCK;
            let blocks = (len + BLOCK - 1) / BLOCK;
            let place = Place {
                first: first_block,
                rows: 1,
                each: blocks,
                stride: 0,
            };
            let packed = self.packed.f_narrow(0, first / 2, (len + 1) / 2)?;
            (packed, self.scales.f_narrow(0, first_block, blocks)?, place)
        } else {
            let part = |tensor: &Tensor, size: i64| -> Result<Tensor> {
                let by_row = tensor.f_view([self.shape[0], whole_columns / size])?;
                Ok(by_row.f_narrow(1, first_column / size, columns / size)?.f_reshape([-1])?)
            };
            let place = Place {
                first: first_column / BLOCK,
                rows,
                each: columns / BLOCK,
                stride: whole_columns / BLOCK,
            };
            (part(&self.packed, 2)?, part(&self.scales, BLOCK)?, place)
        };
        Ok(Self {
            shape: [rows, columns],
            // Copies, so that the whole matrix is freed.
            packed: packed.copy(),
            scales: scales.copy(),
            place,
            ..self
        })
    }

    /// Returns the values in this data type.
    ///
    /// # Errors
    /// libtorch refused (out of memory).
    pub fn dequantize(&self, kind: Kind) -> Result<Tensor> {
        let scales = self.block_scales()?;
        let pairs = self.codes.nf4_pairs.f_index_select(0, &self.packed.f_to_kind(Kind::Int)?)?;
        let values = pairs.f_view_dtype(Kind::Float)?;
        let numel = self.shape[0] * self.shape[1];
        let missing = scales.size()[0] * BLOCK - values.size()[0];
        let values = if missing > 0 {
            values.f_constant_pad_nd([0, missing])?
        } else {
            values
        };
        let scaled = values.f_view([-1, BLOCK])?.f_mul(&scales.f_unsqueeze(1)?)?;
        let scaled = scaled.f_view([-1])?.f_narrow(0, 0, numel)?;
        Ok(scaled.f_view(self.shape)?.f_to_kind(kind)?)
    }

    /// Returns the scale of each block.
    fn block_scales(&self) -> Result<Tensor> {
        let options = (Kind::Int64, self.scales.device());
        let Place { first, rows, each, stride } = self.place;
        let runs = Tensor::f_arange(rows, options)?.f_mul_scalar(stride)?.f_unsqueeze(1)?;
        let places = runs.f_add(&Tensor::f_arange(each, options)?)?.f_add_scalar(first)?.f_view([-1])?;
        let outer = self.outer_scales.f_index_select(0, &places.f_div_scalar_mode(SCALES, "floor")?)?;
        let codes = self.codes.dynamic.f_index_select(0, &self.scales.f_to_kind(Kind::Int)?)?;
        Ok(codes.f_mul(&outer)?.f_add(&self.offset)?)
    }

    /// Returns the same values, which are shared.
    pub fn shallow_clone(&self) -> Self {
        Self {
            packed: self.packed.shallow_clone(),
            scales: self.scales.shallow_clone(),
            outer_scales: self.outer_scales.shallow_clone(),
            offset: self.offset.shallow_clone(),
            codes: self.codes.shallow_clone(),
            ..*self
        }
    }

    /// Returns the bytes of its values: two in each byte.
    pub fn packed(&self) -> &Tensor {
        &self.packed
    }

    /// Returns its size in memory, in bytes.
    pub fn bytes(&self) -> usize {
        [&self.packed, &self.scales, &self.outer_scales, &self.offset]
            .iter()
            .map(|tensor| tensor.numel() * tensor.kind().elt_size_in_bytes())
            .sum()
    }
}

/// Divides values in blocks by their largest magnitudes. Returns both. The last block may be shorter.
fn scale(values: &Tensor, block: i64) -> Result<(Tensor, Tensor)> {
    let numel = values.numel() as i64;
    let whole = numel / block * block;
    let blocks = values.f_narrow(0, 0, whole)?.f_view([-1, block])?;
    let absmax = if whole > 0 {
        blocks.f_abs()?.f_amax([1].as_slice(), false)?
    } else {
        Tensor::f_zeros([0], (Kind::Float, values.device()))?
    };
    let scaled = blocks
        .f_mul(&absmax.f_clamp_min(TINY)?.f_reciprocal()?.f_unsqueeze(1)?)?
        .f_clamp(-1, 1)?
        .f_view([-1])?;
    if whole == numel {
        return Ok((scaled, absmax));
    }
    let rest = values.f_narrow(0, whole, numel - whole)?;
    let largest = rest.f_abs()?.f_max()?.f_clamp_min(TINY)?;
    let scaled_rest = rest.f_div(&largest)?.f_clamp(-1, 1)?;
    Ok((
        Tensor::f_cat(&[scaled, scaled_rest], 0)?,
        Tensor::f_cat(&[absmax, largest.f_unsqueeze(0)?], 0)?,
    ))
}
