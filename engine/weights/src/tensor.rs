//! A tensor of a file: its name, and where its values are.

use std::ops::Range;

use safetensors::Dtype;

use crate::blocks::Blocks;

/// Name, kind and shape of a tensor.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorInfo {
    /// Its name.
    pub name: String,
    /// Kind of its values.
    pub dtype: Dtype,
    /// Its shape.
    pub shape: Vec<usize>,
}

impl TensorInfo {
    /// Returns the number of values.
    pub fn numel(&self) -> u64 {
        self.shape.iter().map(|size| *size as u64).product()
    }

    /// Returns the size in bytes.
    pub fn len_bytes(&self) -> u64 {
        self.numel() * self.dtype.bitsize() as u64 / 8
    }
}

/// A tensor of a file. `info.dtype` is the kind that reading gives: quantized values are read as F32.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredTensor {
    /// Name, kind and shape.
    pub info: TensorInfo,
    pub(crate) place: Place,
}

/// Place of a tensor's values in its file.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Place {
    /// All values in order.
    Range(Range<u64>),
    /// Values at strides, in values. `span` are the bytes from the first to the last of them.
    Strided { span: Range<u64>, strides: Vec<usize> },
    /// Quantized blocks.
    Blocks { range: Range<u64>, blocks: Blocks },
}

impl StoredTensor {
    /// Returns the bytes of the file that are the tensor, if it is stored as it is read.
    pub fn range(&self) -> Option<Range<u64>> {
        match &self.place {
            Place::Range(range) => Some(range.clone()),
            Place::Strided { .. } | Place::Blocks { .. } => None,
        }
    }
}

/// Returns the number of values of a shape; `None` if it is more than 2^63.
pub(crate) fn numel(shape: &[u64]) -> Option<u64> {
    let product = shape.iter().try_fold(1_u64, |product, size| product.checked_mul(*size));
    product.filter(|product| *product < 1 << 63)
}

/// Returns a shape that fits memory.
pub(crate) fn sizes(shape: &[u64]) -> Option<Vec<usize>> {
    shape.iter().map(|size| usize::try_from(*size).ok()).collect()
}
