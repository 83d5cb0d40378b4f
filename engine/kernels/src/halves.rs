//! fp32 values in two halves of 16 bits: the nearest bfloat16, and the rest. Weights in bfloat16 and the rest are master weights
//! in fp32 without another copy (Split-SGD-BF16, arXiv:2005.04680).

use crate::launch::torch;
use crate::processor::{HalvesCall, InstructionSet, halves as compute};
use neva_torch_ffi::{Error, Result};
use tch::{Device, Kind, Tensor};

const OP: &str = "halves of fp32 values";
/// Values that are joined at a time for their bytes.
const PIECE: usize = 1 << 16;

/// fp32 values on the CPU in two tensors: the nearest bfloat16, ties to even as libtorch, and the lower 16 bits of the value. A
/// value halfway between two bfloat16 that is rounded down is changed by its last bit.
#[derive(Debug)]
pub struct Halves {
    high: Tensor,
    low: Tensor,
}

impl Halves {
    /// Creates the halves of the values of `high`, in its memory.
    ///
    /// # Errors
    /// `high` is not in bf16, contiguous, and on the CPU.
    pub fn of(high: Tensor) -> Result<Self> {
        let low = Tensor::f_zeros(high.size(), (Kind::Int16, Device::Cpu)).map_err(torch(OP))?;
        Self { high, low }.checked()
    }

    fn checked(self) -> Result<Self> {
        let fits = |tensor: &Tensor, kind| tensor.kind() == kind && is_flat(tensor) && tensor.size() == self.high.size();
        if fits(&self.high, Kind::BFloat16) && fits(&self.low, Kind::Int16) {
            return Ok(self);
        }
        let (kind, size) = (self.high.kind(), self.high.size());
        Err(Error::Argument(format!("{OP} in {kind:?} {size:?} on {:?}", self.high.device())))
    }

    /// Returns the nearest bfloat16 of each value.
    pub fn high(&self) -> &Tensor {
        &self.high
    }

    /// Returns a range of flat values, in the same memory.
    ///
    /// # Errors
    /// There are fewer values.
    pub fn narrow(&self, start: i64, len: i64) -> Result<Self> {
        let range = |half: &Tensor| half.f_narrow(0, start, len).map_err(torch(OP));
        let (high, low) = (range(&self.high)?, range(&self.low)?);
        Self { high, low }.checked()
    }

    /// Returns the values in this shape, in the same memory.
    ///
    /// # Errors
    /// It has more or fewer values.
    pub fn view(&self, size: &[i64]) -> Result<Self> {
        let view = |half: &Tensor| half.f_view(size).map_err(torch(OP));
        let (high, low) = (view(&self.high)?, view(&self.low)?);
        Self { high, low }.checked()
    }

    /// Sets the values.
    ///
    /// # Errors
    /// `values` are not in fp32, contiguous, on the CPU, and as many.
    pub fn set(&self, values: &Tensor) -> Result<()> {
        self.set_with(InstructionSet::best(), values)
    }

    /// As [`Self::set`], with one of [`InstructionSet::available`].
    ///
    /// # Errors
    /// As [`Self::set`].
    pub fn set_with(&self, set: InstructionSet, values: &Tensor) -> Result<()> {
        let set = if set.is_available() { set } else { InstructionSet::best() };
        self.check(values)?;
        // SAFETY: data types, number and memory layout of the halves and of the values were checked; they live during the call.
        unsafe { compute(set, &self.call(values.data_ptr().cast()), false) };
        Ok(())
    }

    /// Writes the values in fp32 to `values`.
    ///
    /// # Errors
    /// As [`Self::set`].
    pub fn join(&self, values: &Tensor) -> Result<()> {
        self.check(values)?;
        // SAFETY: as in `set_with`.
        unsafe { compute(InstructionSet::best(), &self.call(values.data_ptr().cast()), true) };
        Ok(())
    }

    /// Returns the bytes of the values in fp32, in the processor's order.
    pub fn bytes(&self) -> Vec<u8> {
        let count = self.high.numel();
        let mut bytes = Vec::with_capacity(count * size_of::<f32>());
        let mut values = vec![0f32; count.min(PIECE)];
        for start in (0..count).step_by(PIECE) {
            let len = PIECE.min(count - start);
            let whole = self.call(values.as_mut_ptr());
            let call = HalvesCall {
                high: whole.high.wrapping_add(start),
                low: whole.low.wrapping_add(start),
                count: len as i64,
                ..whole
            };
            // SAFETY: as in `set_with`; `values` has room for the piece, which lies within the halves.
            unsafe { compute(InstructionSet::best(), &call, true) };
            // SAFETY: every bit pattern is a byte.
            let (_, piece, _) = unsafe { values[..len].align_to::<u8>() };
            bytes.extend_from_slice(piece);
        }
        bytes
    }

    fn check(&self, values: &Tensor) -> Result<()> {
        if values.kind() == Kind::Float && is_flat(values) && values.numel() == self.high.numel() {
            return Ok(());
        }
        let (kind, size) = (values.kind(), values.size());
        Err(Error::Argument(format!("{OP} {kind:?} {size:?} for {:?}", self.high.size())))
    }

    fn call(&self, values: *mut f32) -> HalvesCall {
        HalvesCall {
            values,
            high: self.high.data_ptr().cast(),
            low: self.low.data_ptr().cast(),
            count: self.high.numel() as i64,
        }
    }
}

/// Returns whether the values lie one behind the other in the CPU's memory.
fn is_flat(tensor: &Tensor) -> bool {
    tensor.device() == Device::Cpu && tensor.is_contiguous()
}
