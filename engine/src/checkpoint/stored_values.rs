//! Values to be stored: a tensor, or master weights in halves that are joined only while they are written.

use crate::error::Result;
use crate::optim::MasterWeights;
use neva_kernels::Halves;
use tch::{Device, Kind, Tensor};

/// Values to be stored.
#[derive(Debug)]
pub(super) enum StoredValues {
    Tensor(Tensor),
    /// In fp32.
    Split(Halves),
}

impl From<MasterWeights> for StoredValues {
    fn from(master: MasterWeights) -> Self {
        match master {
            MasterWeights::Whole(own) => Self::Tensor(own),
            MasterWeights::Split(halves) => Self::Split(halves),
        }
    }
}

impl StoredValues {
    /// Returns the values in this shape.
    pub(super) fn view(&self, size: &[i64]) -> Result<Self> {
        Ok(match self {
            Self::Tensor(tensor) => Self::Tensor(tensor.f_view(size)?.f_detach()?),
            Self::Split(halves) => Self::Split(halves.view(size)?),
        })
    }

    /// Returns shape and data type.
    pub(super) fn layout(&self) -> (Vec<i64>, Kind) {
        match self {
            Self::Tensor(tensor) => (tensor.size(), tensor.kind()),
            Self::Split(halves) => (halves.high().size(), Kind::Float),
        }
    }

    /// Copies the values to `to`.
    pub(super) fn copy_to(&self, to: &mut Tensor) -> Result<()> {
        match self {
            Self::Tensor(tensor) => to.f_copy_(tensor)?,
            Self::Split(halves) => halves.join(to)?,
        }
        Ok(())
    }

    /// Returns a copy of the bytes on the host.
    pub(super) fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Tensor(tensor) => {
                let mut bytes = vec![0; tensor.numel() * tensor.kind().elt_size_in_bytes()];
                let flat = tensor.to_device(Device::Cpu).contiguous().flatten(0, -1).view_dtype(Kind::Uint8);
                flat.copy_data_u8(&mut bytes, flat.numel());
                bytes
            }
            Self::Split(halves) => halves.bytes(),
        }
    }
}
