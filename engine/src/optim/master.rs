//! Master weights in fp32, as one tensor or as two halves.

use crate::error::Result;
use neva_kernels::Halves;
use tch::{Device, Kind, Tensor};

/// Flat fp32 values of a weight, or of a range of it.
#[derive(Debug)]
pub enum MasterWeights {
    /// In fp32: the weight's own memory, or a copy with the bits that the weight lacks.
    Whole(Tensor),
    /// In two halves: the weight's own memory in bf16, and the rest of each value. So there is no copy of the weight.
    Split(Halves),
}

impl MasterWeights {
    /// Creates the master weights of `weights`, a flat view of a parameter. `alone`: nothing but the optimizer changes the
    /// parameter, so it can be one of the halves.
    pub(super) fn new(weights: Tensor, alone: bool) -> Result<Self> {
        Ok(match weights.kind() {
            Kind::Float => Self::Whole(weights),
            Kind::BFloat16 if alone && weights.device() == Device::Cpu => Self::Split(Halves::of(weights)?),
            _ => Self::Whole(weights.f_to_kind(Kind::Float)?),
        })
    }

    /// Returns the values in fp32: of halves a copy.
    ///
    /// # Errors
    /// There is no memory.
    pub fn values(&self) -> Result<Tensor> {
        match self {
            Self::Whole(values) => Ok(values.shallow_clone()),
            Self::Split(halves) => {
                let values = Tensor::f_empty(halves.high().size(), (Kind::Float, Device::Cpu))?;
                halves.join(&values)?;
                Ok(values)
            }
        }
    }

    /// Sets the values, and with halves the weight itself.
    ///
    /// # Errors
    /// `values` are not in fp32, or there are more or fewer.
    pub fn set(&self, values: &Tensor) -> Result<()> {
        match self {
            // The values may be those of `values()`, changed in place.
            Self::Whole(own) if own.data_ptr() == values.data_ptr() => {}
            Self::Whole(own) => tch::no_grad(|| own.shallow_clone().f_copy_(values))?,
            Self::Split(halves) => halves.set(&values.f_contiguous()?)?,
        }
        Ok(())
    }

    /// Returns a range of the values, in the same memory.
    ///
    /// # Errors
    /// There are fewer values.
    pub fn narrow(&self, start: usize, len: usize) -> Result<Self> {
        let (start, len) = (start as i64, len as i64);
        Ok(match self {
            Self::Whole(own) => Self::Whole(own.f_narrow(0, start, len)?),
            Self::Split(halves) => Self::Split(halves.narrow(start, len)?),
        })
    }
}
