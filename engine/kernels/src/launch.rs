//! Calls of kernels.

use neva_torch_ffi::{Error, Result};
use std::ffi::c_void;
use std::fmt::Debug;
use tch::{Device, TchError, Tensor};

/// A device that runs the kernels: a GPU, the processor, or an emulator in tests.
pub trait Launch: Debug + Send + Sync {
    /// Returns the device of the tensors.
    fn device(&self) -> Device;

    /// Returns whether there is a kernel of that name, with its data type's suffix; a GPU has all of them.
    fn has(&self, kernel: &str) -> bool {
        let _any = kernel;
        true
    }

    /// Starts a kernel with this many blocks, after all that was started before it.
    ///
    /// # Safety
    /// `arguments` point to values of the types that the kernel of that name declares, and the kernel stays within the memory
    /// of its tensors, which is on [`Self::device`].
    ///
    /// # Errors
    /// The device refused.
    unsafe fn launch(&self, kernel: &str, blocks: u32, arguments: &mut [*mut c_void]) -> Result<()>;
}

/// Argument of a kernel.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Argument<'a> {
    /// A pointer to the first value of a tensor.
    Tensor(&'a Tensor),
    /// A pointer that may be null, and is.
    Null,
    /// `i64`.
    Long(i64),
    /// `int`.
    Int(i32),
    /// `float`.
    Float(f32),
}

impl Argument<'_> {
    /// Returns an argument for a tensor that may be missing.
    pub(crate) fn maybe(tensor: Option<&Tensor>) -> Argument<'_> {
        tensor.map_or(Argument::Null, Argument::Tensor)
    }

    /// Returns an `int` argument.
    pub(crate) fn int(value: i64) -> Result<Self> {
        let small = i32::try_from(value).map_err(|_| Error::Argument(format!("a kernel cannot count {value} values of a dim")))?;
        Ok(Self::Int(small))
    }

    /// Returns the bytes that the kernel reads: little-endian, as every machine with a GPU of NVIDIA.
    pub(crate) fn bytes(self) -> [u8; 8] {
        match self {
            Self::Tensor(tensor) => (tensor.data_ptr().expose_provenance() as u64).to_le_bytes(),
            Self::Null => [0; 8],
            Self::Long(value) => value.to_le_bytes(),
            Self::Int(value) => i64::from(value).to_le_bytes(),
            Self::Float(value) => u64::from(value.to_bits()).to_le_bytes(),
        }
    }
}

/// Converts an error of tch in an operation.
pub(crate) fn torch(op: &'static str) -> impl Fn(TchError) -> Error {
    move |error| Error::Torch {
        op,
        message: error.to_string(),
    }
}
