//! Values of fp32, fp16 and bf16, little-endian.

use half::{bf16, f16};
use safetensors::Dtype;

/// Returns the values as fp32; `None` for another kind.
pub fn to_f32(dtype: Dtype, bytes: &[u8]) -> Option<Vec<f32>> {
    Some(match dtype {
        Dtype::F32 => bytes
            .chunks_exact(4)
            .map(|value| f32::from_le_bytes([value[0], value[1], value[2], value[3]]))
            .collect(),
        Dtype::F16 => bytes
            .chunks_exact(2)
            .map(|value| f16::from_le_bytes([value[0], value[1]]).to_f32())
            .collect(),
        Dtype::BF16 => bytes
            .chunks_exact(2)
            .map(|value| bf16::from_le_bytes([value[0], value[1]]).to_f32())
            .collect(),
        _ => return None,
    })
}

/// Returns the bytes of values in a kind; `None` for another one.
pub fn of_f32(dtype: Dtype, values: &[f32]) -> Option<Vec<u8>> {
    Some(match dtype {
        Dtype::F32 => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        Dtype::F16 => values.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes()).collect(),
        Dtype::BF16 => values.iter().flat_map(|value| bf16::from_f32(*value).to_le_bytes()).collect(),
        _ => return None,
    })
}
