//! Scales of MXFP8 for products in hardware.

use super::tensor::Float8Tensor;
use crate::error::Result;
use neva_kernels::MX_BLOCK;
use neva_torch_ffi::view_e8m0;
use tch::{Kind, Tensor};

/// Rows and columns of scales that lie together.
const TILE: [i64; 2] = [128, 4];
/// Rows of a tile of which one scale each follows the other.
const LINES: i64 = 32;
/// Bits of the mantissa of an fp32.
const MANTISSA: i64 = 23;

/// Returns the inverse scales of a matrix in blocks of 32 values as cuBLASLt reads them (cuBLAS documentation, "1D block
/// scaling factors layout"; `is_blockwise_1x32_scaling` in libtorch's `ScaledBlas.cpp`): E8M0 numbers `2^(byte - 127)`, one for
/// each block of each row, in tiles of 128 rows and 4 columns, padded with the smallest number. A tile has its row `r` and its
/// column `c` at `16 (r mod 32) + 4 (r / 32) + c`. Rows of a square block have the same scale.
///
/// # Errors
/// libtorch refused.
pub fn scales(operand: &Float8Tensor) -> Result<Tensor> {
    let ([rows, columns], [height, _]) = (operand.size(), operand.tile().unwrap_or([1, MX_BLOCK]));
    let inverse = match height {
        1 => operand.scale_inv().shallow_clone(),
        height => operand
            .scale_inv()
            .f_repeat_interleave_self_int(height, 0, None)?
            .f_narrow(0, 0, rows)?,
    };
    // Both formats have the bias 127. The smallest E8M0 number, 2^-127, is a subnormal fp32, whose bits of the exponent are 0, too.
    let exponents = inverse
        .f_contiguous()?
        .f_view_dtype(Kind::Int)?
        .f_div_scalar_mode(1 << MANTISSA, "floor")?;
    let across = (columns + MX_BLOCK - 1) / MX_BLOCK;
    let [below, beside] = [(rows, TILE[0]), (across, TILE[1])].map(|(size, tile)| (tile - size % tile) % tile);
    let padded = exponents.f_to_kind(Kind::Uint8)?.f_constant_pad_nd([0, beside, 0, below])?;
    let [down, across] = [(rows + below) / TILE[0], (across + beside) / TILE[1]];
    let tiles = padded.f_view([down, TILE[0] / LINES, LINES, across, TILE[1]])?;
    let bytes = tiles.f_permute([0, 3, 2, 1, 4])?.f_contiguous()?.f_view([-1])?;
    Ok(view_e8m0(&bytes)?)
}
