//! Random values as a function of (seed, name, global index): the same in every layout, whatever else
//! the process draws. libtorch's generator is shared by the threads of a process and would not do.

use neva_layout::{Init, ParamSpec};
use std::f64::consts::TAU;
use tch::{Device, Tensor};

/// The fresh value of rank `tp_rank` of `tp`'s part of a parameter, in fp32; padding rows are 0.
pub(crate) fn fresh(spec: &ParamSpec, seed: u64, tp_rank: usize, tp: usize) -> Tensor {
    let shape = spec.local_shape(tp_rank, tp);
    let key = mix(seed ^ hash(&spec.name));
    let mut values = vec![0f32; shape.iter().product()];
    let shard = spec.shard(tp_rank, tp);
    // View the tensor as [outer, dim, inner], where `dim` is the one that is cut.
    let dim = shard.map_or(0, |shard| shard.dim);
    let inner: usize = shape.iter().skip(dim + 1).product();
    let local = shape.get(dim).copied().unwrap_or(1);
    let whole = spec.shape.get(dim).copied().unwrap_or(1);
    let (start, len) = shard.map_or((0, local), |shard| (shard.start, shard.len));
    for (row, chunk) in values.chunks_mut(inner.max(1)).enumerate() {
        let (outer, index) = (row / local.max(1), row % local.max(1));
        if index >= len {
            continue;
        }
        let first = (outer * whole + start + index) * inner.max(1);
        for (offset, value) in chunk.iter_mut().enumerate() {
            *value = draw(spec.init, key, (first + offset) as u64);
        }
    }
    let shape: Vec<i64> = shape.iter().map(|size| *size as i64).collect();
    Tensor::from_slice(&values).view(shape.as_slice()).to_device(Device::Cpu)
}

fn draw(init: Init, key: u64, index: u64) -> f32 {
    match init {
        Init::Zeros => 0.0,
        Init::Ones => 1.0,
        Init::Uniform { bound } => ((2.0 * unit(key, 2 * index) - 1.0) * bound) as f32,
        // Box and Muller; `1 - u` keeps the logarithm finite.
        Init::Normal { std } => {
            let (u, v) = (unit(key, 2 * index), unit(key, 2 * index + 1));
            (std * (-2.0 * (1.0 - u).ln()).sqrt() * (TAU * v).cos()) as f32
        }
    }
}

/// Uniform in `[0, 1)`, 53 bits.
fn unit(key: u64, counter: u64) -> f64 {
    (mix(key.wrapping_add(counter.wrapping_mul(0x9E37_79B9_7F4A_7C15))) >> 11) as f64 / (1u64 << 53) as f64
}

/// splitmix64's output function (Steele, Lea and Flood, 2014).
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// FNV-1a.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xCBF2_9CE4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
    })
}
