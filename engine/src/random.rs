//! Random values as a function of (seed, name, global index), equal in every layout. libtorch's generator is unsuitable:
//! the threads of a process share it.

use neva_layout::{Init, ParamSpec};
use std::f64::consts::TAU;
use tch::{Device, Tensor};

/// Fewest values for an additional thread: starting one costs about as much as drawing a few hundred values.
const PER_THREAD: usize = 1 << 14;

/// Returns the initial value of this tensor-parallel rank's shard of a parameter, in fp32. Padding rows are 0. Draws on as
/// many threads as libtorch uses.
pub(crate) fn fresh(spec: &ParamSpec, seed: u64, tp_rank: usize, tp: usize) -> Tensor {
    let threads = usize::try_from(tch::get_num_threads()).unwrap_or(1);
    let values = values(spec, seed, (tp_rank, tp), threads);
    let shape: Vec<i64> = spec.local_shape(tp_rank, tp).iter().map(|size| *size as i64).collect();
    Tensor::from_slice(&values).view(shape.as_slice()).to_device(Device::Cpu)
}

/// Draws the values of a shard on up to `threads` threads. The number of threads changes no value.
fn values(spec: &ParamSpec, seed: u64, (tp_rank, tp): (usize, usize), threads: usize) -> Vec<f32> {
    let shape = spec.local_shape(tp_rank, tp);
    let key = mix(seed ^ hash(&spec.name));
    let mut values = vec![0f32; shape.iter().product()];
    let shard = spec.shard(tp_rank, tp);
    // View the tensor as [outer, dim, inner], where `dim` is the one that is cut.
    let dim = shard.map_or(0, |shard| shard.dim);
    let inner: usize = shape.iter().skip(dim + 1).product();
    let inner = inner.max(1);
    let local = shape.get(dim).copied().unwrap_or(1);
    let whole = spec.shape.get(dim).copied().unwrap_or(1);
    let (start, len) = shard.map_or((0, local), |shard| (shard.start, shard.len));
    let fill = |first_row: usize, values: &mut [f32]| {
        for (row, chunk) in (first_row..).zip(values.chunks_mut(inner)) {
            let (outer, index) = (row / local.max(1), row % local.max(1));
            if index >= len {
                continue;
            }
            let first = (outer * whole + start + index) * inner;
            for (offset, value) in chunk.iter_mut().enumerate() {
                *value = draw(spec.init, key, (first + offset) as u64);
            }
        }
    };
    let threads = threads.min(values.len() / PER_THREAD).max(1);
    let rows = (values.len() / inner).div_ceil(threads).max(1);
    std::thread::scope(|scope| {
        for (chunk, values) in values.chunks_mut(rows * inner).enumerate() {
            // This thread draws the last chunk.
            if chunk + 1 < threads {
                scope.spawn(move || fill(chunk * rows, values));
            } else {
                fill(chunk * rows, values);
            }
        }
    });
    values
}

fn draw(init: Init, key: u64, index: u64) -> f32 {
    match init {
        // Row norms depend on the weights: the loader computes them.
        Init::Zeros | Init::RowNorms => 0.0,
        Init::Ones => 1.0,
        Init::Constant { value } => value as f32,
        Init::Uniform { bound } => ((2.0 * unit(key, 2 * index) - 1.0) * bound) as f32,
        // Box and Muller; `1 - u` keeps the logarithm finite.
        Init::Normal { std } => {
            let (u, v) = (unit(key, 2 * index), unit(key, 2 * index + 1));
            (std * (-2.0 * (1.0 - u).ln()).sqrt() * (TAU * v).cos()) as f32
        }
    }
}

/// Returns a uniform value in `[0, 1)` with 53 bits.
fn unit(key: u64, counter: u64) -> f64 {
    (mix(key.wrapping_add(counter.wrapping_mul(0x9E37_79B9_7F4A_7C15))) >> 11) as f64 / (1u64 << 53) as f64
}

/// splitmix64's output function (Steele, Lea and Flood, 2014).
pub(crate) fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// FNV-1a.
pub(crate) fn hash(text: &str) -> u64 {
    text.bytes().fold(0xCBF2_9CE4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use neva_layout::{Cut, Part, PartialSum, Stage};

    const NORMAL: Init = Init::Normal { std: 0.02 };

    fn spec(shape: &[usize], cut: Cut, init: Init) -> ParamSpec {
        ParamSpec {
            name: "weight".into(),
            shape: shape.to_vec(),
            init,
            cut,
            heads: None,
            stage: Stage::First,
            part: Part::Language,
            adapts: None,
            lora: None,
            partial_sum: PartialSum::Never,
            used: true,
        }
    }

    fn bits(values: &[f32]) -> Vec<u32> {
        values.iter().map(|value| value.to_bits()).collect()
    }

    #[test]
    fn values_depend_on_seed_name_and_index_alone() {
        let spec = spec(&[300, 700], Cut::Replicate, NORMAL);
        let key = mix(7 ^ hash("weight"));
        let one_by_one: Vec<_> = (0..300 * 700).map(|index| draw(NORMAL, key, index)).collect();
        assert_eq!(bits(&values(&spec, 7, (0, 1), 1)), bits(&one_by_one));
        assert_eq!(bits(&values(&spec, 7, (0, 1), 3)), bits(&one_by_one));
    }

    #[test]
    fn threads_change_no_bit() {
        let shapes: [&[usize]; 5] = [&[100, 7, 384], &[384, 700], &[400_000], &[3], &[0, 5]];
        let inits = [NORMAL, Init::Uniform { bound: 0.5 }, Init::Ones, Init::Zeros];
        for shape in shapes {
            for cut in [Cut::Replicate, Cut::Column, Cut::Row, Cut::Vocab] {
                let cuts_columns = cut == Cut::Row && shape.len() == 2;
                let cuts_rows = cut == Cut::Vocab || (cut == Cut::Column && shape[0].is_multiple_of(4));
                for tp in [1, 4].into_iter().filter(|tp| *tp == 1 || cuts_columns || cuts_rows) {
                    for init in inits {
                        let spec = spec(shape, cut, init);
                        for rank in 0..tp {
                            let expected = bits(&values(&spec, 7, (rank, tp), 1));
                            for threads in [2, 3, 16] {
                                let got = bits(&values(&spec, 7, (rank, tp), threads));
                                assert!(got == expected, "{shape:?} {cut:?} {init:?} rank {rank} of {tp}, {threads} threads");
                            }
                        }
                    }
                }
            }
        }
    }
}
