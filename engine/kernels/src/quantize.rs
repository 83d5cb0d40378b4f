//! FP8 casts of matrices.

use crate::kernels::Kernels;
use crate::launch::{Argument, torch};
use neva_torch_ffi::{Error, Result};
use tch::{Kind, TchError, Tensor};

const OP: &str = "FP8 cast";
/// Rows and columns that a block casts (`TILE` in `quantize.cu`).
const TILE: i64 = 64;
/// Values of an `amax` block, at least.
const AMAX_SPAN: i64 = 16 * 1024;
/// Blocks of `amax`, at most: some for each processor of a large GPU.
const AMAX_BLOCKS: i64 = 1024;

/// A matrix in FP8 before the division by its scale.
#[derive(Debug)]
pub struct Fp8Matrix {
    /// `[rows, columns]`.
    pub data: Tensor,
    /// `[columns, rows]`, if it was asked for.
    pub transposed: Option<Tensor>,
}

/// Multiplies a matrix by a scale, a scalar in fp32, and casts it to `format` (`Float8e4m3fn` or `Float8e5m2`). Values beyond
/// the largest one saturate; NaN stays NaN. `amax`, a scalar in fp32, is raised to the [`amax`] of `x`.
///
/// # Errors
/// The shapes do not fit, or libtorch or the GPU refused.
pub fn quantize(x: &Tensor, scale: &Tensor, format: Kind, transposed: bool, amax: Option<&Tensor>) -> Result<Fp8Matrix> {
    match Kernels::for_all("quantize_e4m3", &[x]) {
        Some(kernels) if x.is_contiguous() => kernels.quantize(x, scale, format, transposed, amax),
        _ => formula(x, scale, format, transposed, amax).map_err(torch(OP)),
    }
}

/// Returns the largest magnitude of a tensor as a scalar in fp32: infinite if a value is NaN or infinite, 0 of an empty tensor.
///
/// # Errors
/// libtorch or the GPU refused.
pub fn amax(x: &Tensor) -> Result<Tensor> {
    match Kernels::for_all("quantize_e4m3", &[x]) {
        Some(kernels) if x.is_contiguous() => kernels.amax(x),
        _ => amax_formula(x).map_err(torch(OP)),
    }
}

/// Returns a matrix of bytes, as the values of FP8 are, transposed and contiguous.
///
/// # Errors
/// It is no matrix, or libtorch or the GPU refused.
pub fn transpose(bytes: &Tensor) -> Result<Tensor> {
    match Kernels::of(bytes.device()) {
        Some(kernels) if bytes.is_contiguous() && bytes.kind() == Kind::Uint8 => kernels.transpose(bytes),
        _ => transpose_formula(bytes).map_err(torch(OP)),
    }
}

pub(crate) fn transpose_formula(bytes: &Tensor) -> std::result::Result<Tensor, TchError> {
    bytes.f_transpose(0, 1)?.f_contiguous()
}

/// libtorch's formula.
pub(crate) fn formula(
    x: &Tensor,
    scale: &Tensor,
    format: Kind,
    transposed: bool,
    amax: Option<&Tensor>,
) -> std::result::Result<Fp8Matrix, TchError> {
    if let Some(amax) = amax {
        let largest = amax.f_maximum(&amax_formula(x)?)?;
        amax.shallow_clone().f_copy_(&largest)?;
    }
    let largest = largest(format);
    let scaled = x.f_to_kind(Kind::Float)?.f_mul(scale)?.f_clamp(-largest, largest)?;
    let data = scaled.f_to_kind(format)?.f_contiguous()?;
    let transpose = |data: &Tensor| transpose_formula(&data.f_view_dtype(Kind::Uint8)?)?.f_view_dtype(format);
    Ok(Fp8Matrix {
        transposed: transposed.then(|| transpose(&data)).transpose()?,
        data,
    })
}

pub(crate) fn amax_formula(x: &Tensor) -> std::result::Result<Tensor, TchError> {
    if x.numel() == 0 {
        return Tensor::f_zeros([], (Kind::Float, x.device()));
    }
    let largest = x.f_abs()?.f_max()?.f_to_kind(Kind::Float)?;
    // The order of reductions must not decide what a NaN does.
    largest.f_nan_to_num(f64::INFINITY, f64::INFINITY, None)
}

/// Returns the largest finite value of a format.
pub(crate) fn largest(format: Kind) -> f64 {
    if format == Kind::Float8e5m2 { 57344.0 } else { 448.0 }
}

impl Kernels {
    /// As [`quantize`], with kernels; `x` is contiguous.
    ///
    /// # Errors
    /// As [`quantize`].
    pub fn quantize(&self, x: &Tensor, scale: &Tensor, format: Kind, transposed: bool, amax: Option<&Tensor>) -> Result<Fp8Matrix> {
        let kernel = match format {
            Kind::Float8e4m3fn => "quantize_e4m3",
            Kind::Float8e5m2 => "quantize_e5m2",
            _ => return Err(Error::Argument(format!("{OP}: {format:?} is no FP8 format"))),
        };
        let [rows, columns] = matrix(x)?;
        contiguous(x)?;
        scalar(scale)?;
        if let Some(amax) = amax {
            scalar(amax)?;
        }
        let empty = |size: [i64; 2]| Tensor::f_empty(size, (format, x.device())).map_err(torch(OP));
        let data = empty([rows, columns])?;
        let transposed = transposed.then(|| empty([columns, rows])).transpose()?;
        let mut places = vec![(x, 4 * x.kind().elt_size_in_bytes()), (&data, 4)];
        places.extend(transposed.as_ref().map(|transposed| (transposed, 4)));
        let aligned = in_fours([rows, columns], &places);
        let arguments = [
            Argument::Tensor(x),
            Argument::Tensor(scale),
            Argument::Tensor(&data),
            Argument::maybe(transposed.as_ref()),
            Argument::maybe(amax),
            Argument::Long(rows),
            Argument::Long(columns),
            Argument::Int(i32::from(aligned)),
        ];
        self.run(kernel, x.kind(), tiles([rows, columns]), &arguments)?;
        Ok(Fp8Matrix { data, transposed })
    }

    /// As [`transpose`], with a kernel; `bytes` is contiguous.
    ///
    /// # Errors
    /// As [`transpose`].
    pub fn transpose(&self, bytes: &Tensor) -> Result<Tensor> {
        contiguous(bytes)?;
        let [rows, columns] = matrix(bytes)?;
        let transposed = Tensor::f_empty([columns, rows], (Kind::Uint8, bytes.device())).map_err(torch(OP))?;
        let arguments = [
            Argument::Tensor(bytes),
            Argument::Tensor(&transposed),
            Argument::Long(rows),
            Argument::Long(columns),
            Argument::Int(i32::from(in_fours([rows, columns], &[(bytes, 4), (&transposed, 4)]))),
        ];
        self.run("transpose", bytes.kind(), tiles([rows, columns]), &arguments)?;
        Ok(transposed)
    }

    /// As [`amax`], with kernels; `x` is contiguous.
    ///
    /// # Errors
    /// As [`amax`].
    pub fn amax(&self, x: &Tensor) -> Result<Tensor> {
        let amax = Tensor::f_zeros([], (Kind::Float, x.device())).map_err(torch(OP))?;
        contiguous(x)?;
        let count = x.numel() as i64;
        let blocks = ((count + AMAX_SPAN - 1) / AMAX_SPAN).min(AMAX_BLOCKS);
        let arguments = [Argument::Tensor(x), Argument::Tensor(&amax), Argument::Long(count)];
        self.run("amax", x.kind(), blocks, &arguments)?;
        Ok(amax)
    }
}

/// Returns the tiles of a matrix.
fn tiles([rows, columns]: [i64; 2]) -> i64 {
    (rows + TILE - 1) / TILE * ((columns + TILE - 1) / TILE)
}

/// Returns true if rows and columns consist of fours of values, and the tensors start at multiples of these bytes. Memory of
/// libtorch does, but a view may not.
pub(crate) fn in_fours(size: [i64; 2], places: &[(&Tensor, usize)]) -> bool {
    let starts = |(tensor, bytes): &(&Tensor, usize)| tensor.data_ptr().addr().is_multiple_of(*bytes);
    size.iter().all(|size| size % 4 == 0) && places.iter().all(starts)
}

pub(crate) fn matrix(x: &Tensor) -> Result<[i64; 2]> {
    <[i64; 2]>::try_from(x.size()).map_err(|size| Error::Argument(format!("{OP}: {size:?} is no matrix")))
}

pub(crate) fn contiguous(x: &Tensor) -> Result<()> {
    if x.is_contiguous() {
        return Ok(());
    }
    Err(Error::Argument(format!("{OP}: {x:?} is not contiguous")))
}

fn scalar(tensor: &Tensor) -> Result<()> {
    if tensor.numel() == 1 && tensor.kind() == Kind::Float {
        return Ok(());
    }
    Err(Error::Argument(format!("{OP}: {tensor:?} is no scalar in fp32")))
}
