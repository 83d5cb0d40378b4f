//! Values that 4 and 8 bits stand for, as in bitsandbytes 0.50 (`_NF4_QUANT_TABLE`, `create_dynamic_map`).

use crate::error::Result;
use tch::{Device, Kind, Tensor};

/// The values of 4-bit NormalFloat.
const NF4: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// Tables on one device.
#[derive(Debug)]
pub(super) struct Codes {
    /// Borders between the values of NF4. A value on a border belongs to the lower one.
    pub(super) nf4_bounds: Tensor,
    /// For each byte, its two values side by side in the bits of one number.
    pub(super) nf4_pairs: Tensor,
    /// The 8-bit values of scales.
    pub(super) dynamic: Tensor,
    /// Borders between them.
    pub(super) dynamic_bounds: Tensor,
}

impl Codes {
    pub(super) fn new(device: Device) -> Result<Self> {
        let nf4 = Tensor::from_slice(&NF4);
        let pairs: Vec<_> = (0..256).flat_map(|byte: usize| [NF4[byte >> 4], NF4[byte & 15]]).collect();
        let dynamic = dynamic_map()?;
        Ok(Self {
            nf4_bounds: bounds(&nf4)?.f_to_device(device)?,
            nf4_pairs: Tensor::from_slice(&pairs).f_view_dtype(Kind::Int64)?.f_to_device(device)?,
            dynamic_bounds: bounds(&dynamic)?.f_to_device(device)?,
            dynamic: dynamic.f_to_device(device)?,
        })
    }

    pub(super) fn shallow_clone(&self) -> Self {
        Self {
            nf4_bounds: self.nf4_bounds.shallow_clone(),
            nf4_pairs: self.nf4_pairs.shallow_clone(),
            dynamic: self.dynamic.shallow_clone(),
            dynamic_bounds: self.dynamic_bounds.shallow_clone(),
        }
    }
}

/// Returns the middles between ascending values.
fn bounds(values: &Tensor) -> Result<Tensor> {
    let count = values.size()[0] - 1;
    Ok(values
        .f_narrow(0, 0, count)?
        .f_add(&values.f_narrow(0, 1, count)?)?
        .f_div_scalar(2)?)
}

/// Returns the signed 8-bit values: 7 decades, each with twice as many steps as the one below (arXiv:1511.04561).
fn dynamic_map() -> Result<Tensor> {
    let mut values: Vec<f32> = vec![0.0, 1.0];
    for decade in 0..7 {
        let steps = (1i64 << decade) + 1;
        let bounds = Tensor::f_linspace(0.1, 1.0, steps, (Kind::Float, Device::Cpu))?;
        let means = bounds
            .f_narrow(0, 0, steps - 1)?
            .f_add(&bounds.f_narrow(0, 1, steps - 1)?)?
            .f_div_scalar(2.0)?;
        let scaled: Vec<f32> = Vec::try_from(means.f_mul_scalar(10f64.powi(decade - 6))?)?;
        values.extend(scaled.iter().flat_map(|value| [*value, -value]));
    }
    values.sort_by(f32::total_cmp);
    Ok(Tensor::from_slice(&values))
}
