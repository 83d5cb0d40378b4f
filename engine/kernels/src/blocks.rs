//! FP8 casts of matrices with a scale, a power of 2, for each block of them.

use crate::kernels::Kernels;
use crate::launch::{Argument, torch};
use crate::quantize::{contiguous, in_fours, largest, matrix};
use neva_torch_ffi::{Error, Result};
use tch::{Kind, TchError, Tensor};

const OP: &str = "FP8 cast of blocks";
/// Values of a block, or rows and columns of a square one (`BLOCK` in `blocks.cu`).
pub const BLOCK: i64 = 128;
/// Values of a block of MXFP8, or rows and columns of a square one.
pub const MX_BLOCK: i64 = 32;
/// The sign and exponent bits of an fp32.
const POWER_OF_TWO: i64 = -0x0080_0000;

/// A matrix in FP8, `value = data * scale_inv` of its block.
#[derive(Debug)]
pub struct Fp8Blocks {
    /// `[rows, columns]`.
    pub data: Tensor,
    /// Inverse scales in fp32, `[rows, columns]` of blocks.
    pub scale_inv: Tensor,
    /// The transposed matrix, if it was asked for: with blocks of the same size if they have one row, and else with the same
    /// blocks, transposed.
    pub transposed: Option<Box<Self>>,
}

/// Casts a matrix to `format` (`Float8e4m3fn` or `Float8e5m2`) in blocks of `block` rows and columns. The last ones may be
/// smaller. Values saturate; NaN stays NaN.
///
/// # Errors
/// The shapes do not fit, or libtorch or the GPU refused.
pub fn quantize_blocks(x: &Tensor, block: [i64; 2], format: Kind, transposed: bool) -> Result<Fp8Blocks> {
    match (kernel(block, format), Kernels::for_all("quantize_rows_e4m3", &[x])) {
        (Some(_), Some(kernels)) => {
            let x = x.f_contiguous().map_err(torch(OP))?;
            kernels.quantize_blocks(&x, block, format, transposed)
        }
        _ => formula(x, block, format, transposed).map_err(torch(OP)),
    }
}

/// Returns the scales `largest / amax` of tensors or blocks with these amaxes: 1 if an amax is 0 or not finite. With
/// `power_of_two` they are rounded down to a power of 2.
///
/// # Errors
/// libtorch refused.
pub fn current_scale(amax: &Tensor, largest: f64, power_of_two: bool) -> std::result::Result<Tensor, TchError> {
    let usable = amax.f_isfinite()?.f_logical_and(&amax.f_gt(0.0)?)?;
    // A tiny amax would make the scale infinite.
    let scale = amax.f_full_like(largest)?.f_div(amax)?.f_clamp_max(f64::from(f32::MAX))?;
    let scale = scale.f_where_self(&usable, &amax.f_ones_like()?)?;
    if !power_of_two {
        return Ok(scale);
    }
    let bits = scale.f_view_dtype(Kind::Int)?.f_bitwise_and(POWER_OF_TWO)?;
    bits.f_view_dtype(Kind::Float)
}

/// Multiplies each tile of a matrix by its factor, `[rows, columns]` of tiles.
///
/// # Errors
/// The shapes do not fit, or libtorch refused.
pub fn scale_tiles(x: &Tensor, tile: [i64; 2], factors: &Tensor) -> std::result::Result<Tensor, TchError> {
    let size = x.size();
    let tiles = tiles(x, tile)?.f_mul(&factors.f_unsqueeze(1)?.f_unsqueeze(3)?)?;
    let padded = tiles.size();
    let matrix = tiles.f_view([padded[0] * padded[1], padded[2] * padded[3]])?;
    matrix.f_narrow(0, 0, size[0])?.f_narrow(1, 0, size[1])?.f_contiguous()
}

/// Returns a matrix as tiles `[rows of tiles, rows, columns of tiles, columns]`, padded with zeros.
fn tiles(x: &Tensor, [rows, columns]: [i64; 2]) -> std::result::Result<Tensor, TchError> {
    let size = x.size();
    let missing = |size: i64, tile: i64| (tile - size % tile) % tile;
    let padding = [0, missing(size[1], columns), 0, missing(size[0], rows)];
    let padded = match padding {
        [0, 0, 0, 0] => x.f_contiguous()?,
        _ => x.f_constant_pad_nd(padding)?,
    };
    padded.f_view([(size[0] + padding[3]) / rows, rows, (size[1] + padding[1]) / columns, columns])
}

/// libtorch's formula.
pub(crate) fn formula(x: &Tensor, block: [i64; 2], format: Kind, transposed: bool) -> std::result::Result<Fp8Blocks, TchError> {
    let (values, largest) = (x.f_to_kind(Kind::Float)?, largest(format));
    let amax = tiles(&values, block)?.f_abs()?.f_amax([1, 3].as_slice(), false)?;
    let scale = current_scale(&amax.f_nan_to_num(f64::INFINITY, f64::INFINITY, None)?, largest, true)?;
    let data = scale_tiles(&values, block, &scale)?.f_clamp(-largest, largest)?.f_to_kind(format)?;
    let scale_inv = scale.f_reciprocal()?;
    let transposed = match (transposed, block[0]) {
        (false, _) => None,
        (true, 1) => Some(formula(&values.f_transpose(0, 1)?, block, format, false)?),
        (true, _) => {
            let bytes = data.f_view_dtype(Kind::Uint8)?.f_transpose(0, 1)?.f_contiguous()?;
            Some(Fp8Blocks {
                data: bytes.f_view_dtype(format)?,
                scale_inv: scale_inv.f_transpose(0, 1)?.f_contiguous()?,
                transposed: None,
            })
        }
    };
    Ok(Fp8Blocks {
        data,
        scale_inv,
        transposed: transposed.map(Box::new),
    })
}

/// Returns the kernel for blocks of this size. Square ones are for weights, which are never E5M2.
fn kernel(block: [i64; 2], format: Kind) -> Option<&'static str> {
    match (block, format) {
        ([1, BLOCK], Kind::Float8e4m3fn) => Some("quantize_rows_e4m3"),
        ([1, BLOCK], Kind::Float8e5m2) => Some("quantize_rows_e5m2"),
        ([1, MX_BLOCK], Kind::Float8e4m3fn) => Some("quantize_rows32_e4m3"),
        ([1, MX_BLOCK], Kind::Float8e5m2) => Some("quantize_rows32_e5m2"),
        ([BLOCK, BLOCK], Kind::Float8e4m3fn) => Some("quantize_squares_e4m3"),
        _ => None,
    }
}

impl Kernels {
    /// As [`quantize_blocks`], with kernels; `x` is contiguous.
    ///
    /// # Errors
    /// As [`quantize_blocks`], and there is no kernel for such blocks.
    pub fn quantize_blocks(&self, x: &Tensor, block: [i64; 2], format: Kind, transposed: bool) -> Result<Fp8Blocks> {
        let kernel = kernel(block, format).ok_or_else(|| Error::Argument(format!("{OP}: no kernel has {block:?} in {format:?}")))?;
        let [rows, columns] = matrix(x)?;
        contiguous(x)?;
        let blocks = |size: i64, of: i64| (size + of - 1) / of;
        let empty = |size: [i64; 2], kind| Tensor::f_empty(size, (kind, x.device())).map_err(torch(OP));
        let data = empty([rows, columns], format)?;
        let scale_inv = empty([blocks(rows, block[0]), blocks(columns, block[1])], Kind::Float)?;
        let other = transposed.then(|| empty([columns, rows], format)).transpose()?;
        let mut places = vec![(x, 4 * x.kind().elt_size_in_bytes()), (&data, 4)];
        places.extend(other.as_ref().map(|other| (other, 4)));
        let mut arguments = vec![
            Argument::Tensor(x),
            Argument::Tensor(&data),
            Argument::Tensor(&scale_inv),
            Argument::maybe(other.as_ref()),
        ];
        let other_inv = (transposed && block[0] == 1).then(|| empty([columns, blocks(rows, block[1])], Kind::Float));
        let other_inv = other_inv.transpose()?;
        if block[0] == 1 {
            arguments.push(Argument::maybe(other_inv.as_ref()));
        }
        let aligned = in_fours([rows, columns], &places);
        arguments.extend([Argument::Long(rows), Argument::Long(columns), Argument::Int(i32::from(aligned))]);
        // A block of threads has rows of one block and 128 columns.
        let height = if block[0] == 1 { block[1] } else { BLOCK };
        self.run(kernel, x.kind(), blocks(rows, height) * blocks(columns, BLOCK), &arguments)?;
        let other_inv = match other_inv {
            Some(inverse) => Ok(inverse),
            None => scale_inv.f_transpose(0, 1).and_then(|inverse| inverse.f_contiguous()),
        };
        let other_inv = other_inv.map_err(torch(OP))?;
        Ok(Fp8Blocks {
            data,
            scale_inv,
            transposed: other.map(|data| {
                Box::new(Fp8Blocks {
                    data,
                    scale_inv: other_inv,
                    transposed: None,
                })
            }),
        })
    }
}
