//! Matrices in FP8, with their scales.

use super::format::Format;
use crate::error::{EngineError, Result};
use neva_kernels::{Fp8Blocks, Kernels};
use neva_layout::Shard;
use tch::{Kind, Tensor};

/// What a cast computes besides.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Wanted<'a> {
    /// The transposed matrix, where a kernel computes both at once.
    pub(super) transposed: bool,
    /// A scalar that is raised to the largest magnitude of the matrix.
    pub(super) amax: Option<&'a Tensor>,
}

/// A matrix in FP8: `value = data * scale_inv`, with one scale for the matrix or for each tile of it.
#[derive(Debug)]
pub struct Float8Tensor {
    /// `[rows, columns]`.
    data: Tensor,
    /// `[columns, rows]`, if the kernel that quantised the matrix transposed it, too.
    transposed: Option<Box<Self>>,
    /// Inverse scales in fp32: a scalar, or `[rows, columns]` of tiles.
    scale_inv: Tensor,
    /// Rows and columns of a tile; `None` with one scale.
    tile: Option<[i64; 2]>,
    format: Format,
}

impl Float8Tensor {
    /// Quantises a matrix with a scale, a scalar in fp32. Values beyond the largest one of the format saturate: libtorch's
    /// cast would turn them into NaN.
    ///
    /// # Errors
    /// `x` is no matrix, or libtorch refused.
    pub fn quantize(x: &Tensor, scale: &Tensor, format: Format) -> Result<Self> {
        Self::quantize_with(x, scale, format, Wanted::default())
    }

    /// As [`Self::quantize`], with more results of the same pass over `x`.
    pub(super) fn quantize_with(x: &Tensor, scale: &Tensor, format: Format, wanted: Wanted<'_>) -> Result<Self> {
        matrix(x)?;
        // Without a kernel it would be another pass, which a backward pass may not need.
        let transposed = wanted.transposed && Kernels::cover(x);
        let cast = neva_kernels::quantize(x, scale, format.kind(), transposed, wanted.amax)?;
        let scale_inv = scale.f_reciprocal()?;
        let with = |data: Tensor| Self {
            data,
            transposed: None,
            scale_inv: scale_inv.shallow_clone(),
            tile: None,
            format,
        };
        Ok(Self {
            transposed: cast.transposed.map(with).map(Box::new),
            ..with(cast.data)
        })
    }

    /// Quantises a matrix in tiles, each with its own scale, a power of 2. The last tiles may be smaller.
    ///
    /// # Errors
    /// `x` is no matrix, or libtorch refused.
    pub fn quantize_tiles(x: &Tensor, tile: [i64; 2], format: Format) -> Result<Self> {
        Self::quantize_tiles_with(x, tile, format, false)
    }

    /// As [`Self::quantize_tiles`]. `transposed`: the transposed matrix is needed, too; a kernel computes both at once.
    pub(super) fn quantize_tiles_with(x: &Tensor, tile: [i64; 2], format: Format, transposed: bool) -> Result<Self> {
        matrix(x)?;
        let blocks = neva_kernels::quantize_blocks(x, tile, format.kind(), transposed && Kernels::cover(x))?;
        Ok(Self::of_blocks(blocks, tile, format))
    }

    fn of_blocks(blocks: Fp8Blocks, tile: [i64; 2], format: Format) -> Self {
        let transposed = blocks.transposed.map(|other| Self::of_blocks(*other, tile, format));
        Self {
            data: blocks.data,
            transposed: transposed.map(Box::new),
            scale_inv: blocks.scale_inv,
            tile: Some(tile),
            format,
        }
    }

    /// Returns the values in this data type.
    ///
    /// # Errors
    /// libtorch refused (out of memory).
    pub fn dequantize(&self, kind: Kind) -> Result<Tensor> {
        let values = self.data.f_to_kind(Kind::Float)?;
        match self.tile {
            None => Ok(values.f_mul(&self.scale_inv)?.f_to_kind(kind)?),
            Some(tile) => Ok(neva_kernels::scale_tiles(&values, tile, &self.scale_inv)?.f_to_kind(kind)?),
        }
    }

    /// Returns the transposed matrix, in other memory than this one.
    ///
    /// # Errors
    /// libtorch refused (out of memory).
    pub fn transposed(&self) -> Result<Self> {
        if let Some(transposed) = &self.transposed {
            return Ok(transposed.shallow_clone());
        }
        let bytes = neva_kernels::transpose(&self.data.f_view_dtype(Kind::Uint8)?)?;
        Ok(Self {
            data: bytes.f_view_dtype(self.format.kind())?,
            transposed: None,
            scale_inv: match self.tile {
                None => self.scale_inv.shallow_clone(),
                Some(_) => self.scale_inv.f_transpose(0, 1)?.f_contiguous()?,
            },
            tile: self.tile.map(|[rows, columns]| [columns, rows]),
            format: self.format,
        })
    }

    /// Returns the values `shard` of a matrix with one scale, in memory of their own.
    ///
    /// # Errors
    /// libtorch refused (out of memory).
    pub fn shard(&self, shard: Option<Shard>) -> Result<Self> {
        let Some(shard) = shard else { return Ok(self.shallow_clone()) };
        let bytes = self.data.f_view_dtype(Kind::Uint8)?;
        let bytes = bytes.f_narrow(shard.dim as i64, shard.start as i64, shard.len as i64)?.copy();
        Ok(Self {
            data: bytes.f_contiguous()?.f_view_dtype(self.format.kind())?,
            transposed: None,
            ..self.shallow_clone()
        })
    }

    /// Returns the same matrix, which is shared.
    #[must_use]
    pub fn shallow_clone(&self) -> Self {
        Self {
            data: self.data.shallow_clone(),
            transposed: self.transposed.as_ref().map(|transposed| Box::new(transposed.shallow_clone())),
            scale_inv: self.scale_inv.shallow_clone(),
            ..*self
        }
    }

    /// Keeps the transposed matrix beside this one.
    pub(super) fn with_transposed(self, transposed: Self) -> Self {
        Self {
            transposed: Some(Box::new(transposed)),
            ..self
        }
    }

    /// Returns true if [`Self::transposed`] copies nothing.
    pub(super) fn has_transposed(&self) -> bool {
        self.transposed.is_some()
    }

    /// Returns the values before they are divided by their scales.
    pub fn data(&self) -> &Tensor {
        &self.data
    }

    /// Returns the inverse scales in fp32: a scalar, or one for each tile.
    pub fn scale_inv(&self) -> &Tensor {
        &self.scale_inv
    }

    /// Returns rows and columns of a tile; `None` with one scale.
    pub(super) fn tile(&self) -> Option<[i64; 2]> {
        self.tile
    }

    /// Returns whether the matrix has one scale.
    pub fn has_one_scale(&self) -> bool {
        self.tile.is_none()
    }

    /// Returns rows and columns.
    pub fn size(&self) -> [i64; 2] {
        let size = self.data.size();
        [size[0], size[1]]
    }

    /// Returns the size in memory, in bytes.
    pub fn bytes(&self) -> usize {
        let transposed = self.transposed.as_ref().map_or(0, |transposed| transposed.bytes());
        self.data.numel() + transposed + 4 * self.scale_inv.numel()
    }
}

fn matrix(x: &Tensor) -> Result<[i64; 2]> {
    <[i64; 2]>::try_from(x.size()).map_err(|size| EngineError::Bug(format!("only matrices have FP8 values, not {size:?}")))
}
