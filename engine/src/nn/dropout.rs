//! Dropout of adapters. A mask is a function of (seed, adapter, place of the sample in the stream, position, channel), so it
//! is the same in every layout, in a recomputation and after a resume. libtorch's generator is not used.

use crate::error::{EngineError, Result};
use crate::random::{hash, mix};
use crate::sample_keys::SampleKeys;
use neva_schemas::DropoutPosition;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tch::{Device, Kind, Tensor};

/// Fewest values for an additional thread.
const PER_THREAD: usize = 1 << 17;

/// Keys of the microbatch that a model currently computes, shared by all its adapters. Without keys there is no dropout: in a
/// validation and in generation.
#[derive(Debug, Clone, Default)]
pub struct CurrentKeys(Arc<Mutex<Option<Keys>>>);

/// Keys of a microbatch, or within the vision encoder those of its images.
#[derive(Debug, Clone)]
pub struct Keys {
    samples: Arc<SampleKeys>,
    /// Images that this rank encodes, within the vision encoder and the projector.
    images: Option<Arc<Vec<u64>>>,
}

impl CurrentKeys {
    fn lock(&self) -> MutexGuard<'_, Option<Keys>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the current keys, for [`Self::with`] in a recomputation.
    pub fn get(&self) -> Option<Keys> {
        self.lock().clone()
    }

    /// Runs `run` with these keys.
    pub fn with<T>(&self, keys: Option<Keys>, run: impl FnOnce() -> T) -> T {
        let before = std::mem::replace(&mut *self.lock(), keys);
        let result = run();
        *self.lock() = before;
        result
    }

    /// Runs `run` with the keys of a microbatch.
    pub fn of_samples<T>(&self, samples: Option<&Arc<SampleKeys>>, run: impl FnOnce() -> T) -> T {
        let keys = samples.map(|samples| Keys {
            samples: samples.clone(),
            images: None,
        });
        self.with(keys, run)
    }

    /// Runs `run`, which encodes the images of these indices.
    pub(super) fn of_images<T>(&self, indices: &[i64], run: impl FnOnce() -> T) -> T {
        let keys = self.get().map(|keys| {
            let own = indices.iter().filter_map(|index| keys.samples.images.get(*index as usize).copied());
            Keys {
                images: Some(Arc::new(own.collect())),
                ..keys
            }
        });
        self.with(keys, run)
    }
}

/// The part of each sequence that an input of dropout has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) rank: usize,
    pub(super) ranks: usize,
}

impl Part {
    /// Whole sequences.
    pub(super) const WHOLE: Self = Self { rank: 0, ranks: 1 };
}

/// Dropout of one adapter.
#[derive(Debug, Clone)]
pub struct Dropout {
    keys: CurrentKeys,
    probability: f64,
    position: DropoutPosition,
    /// Key of the adapter's input, which the linears of a fused module share, or of its output.
    key: u64,
}

impl Dropout {
    /// Returns dropout whose masks depend on `name`: that of A for dropout on the input, that of B on the output.
    pub(super) fn new(keys: CurrentKeys, probability: f64, position: DropoutPosition, seed: u64, [a, b]: [&str; 2]) -> Self {
        let name = match position {
            DropoutPosition::Pre => a,
            DropoutPosition::Post => b,
        };
        Self {
            keys,
            probability,
            position,
            key: mix(seed ^ hash(name)),
        }
    }

    /// Returns the mask for the input `x` of the adapter, and the factor of the values that are kept; `None` if nothing is
    /// dropped there. The last dim of `x` begins with the channel `first`.
    pub(super) fn before(&self, x: &Tensor, part: Part, first: usize) -> Result<Option<Mask>> {
        self.mask(DropoutPosition::Pre, x, part, first)
    }

    /// Returns the mask for the output of the adapter.
    pub(super) fn after(&self, y: &Tensor, part: Part, first: usize) -> Result<Option<Mask>> {
        self.mask(DropoutPosition::Post, y, part, first)
    }

    fn mask(&self, position: DropoutPosition, x: &Tensor, part: Part, first: usize) -> Result<Option<Mask>> {
        let Some(keys) = self.keys.get().filter(|_| self.position == position) else {
            return Ok(None);
        };
        let size = x.size();
        let channels = size.last().copied().unwrap_or(1) as usize;
        let rows = keys.rows(x.numel() / channels.max(1), size.first().copied().unwrap_or(1) as usize, part)?;
        let rows: Vec<_> = rows.into_iter().map(|row| (mix(row ^ self.key) >> 32) as u32).collect();
        // A value is kept if its 32 bits, as a signed number, are at least the threshold.
        let threshold = (self.probability * f64::from(u32::MAX)).round() as i64 + i64::from(i32::MIN);
        let kept = keep(&rows, first, channels, threshold as i32, x.device());
        Ok(Some(Mask {
            kept: kept.f_view(size.as_slice())?,
            factor: 1.0 / (1.0 - self.probability),
        }))
    }
}

impl Keys {
    /// Returns a key for each of `rows` rows of an input whose first dim is `first`: positions, or positions of images.
    fn rows(&self, rows: usize, first: usize, part: Part) -> Result<Vec<u64>> {
        let wrong = |keys: usize| EngineError::Bug(format!("dropout on {rows} rows of a microbatch with keys for {keys}"));
        if let Some(images) = &self.images {
            if images.len() != first || !rows.is_multiple_of(first.max(1)) {
                return Err(wrong(images.len()));
            }
            let each = (rows / first.max(1)) as u64;
            return Ok(images
                .iter()
                .flat_map(|image| (0..each).map(move |position| mix(image.wrapping_add(position))))
                .collect());
        }
        let positions = &self.samples.positions;
        if positions.len() != rows * part.ranks || !rows.is_multiple_of(first.max(1)) {
            return Err(wrong(positions.len()));
        }
        let each = rows / first.max(1);
        let shards = positions.chunks(each.max(1)).skip(part.rank).step_by(part.ranks);
        Ok(shards.flatten().copied().collect())
    }
}

/// Which values are kept, as booleans, and the factor that keeps their mean.
#[derive(Debug)]
pub(super) struct Mask {
    kept: Tensor,
    pub(super) factor: f64,
}

impl Mask {
    /// Returns `x` with zeros in place of the dropped values; the others are not scaled yet.
    pub(super) fn apply(&self, x: &Tensor) -> Tensor {
        x * &self.kept
    }
}

/// Returns whether each value is kept, for rows with these keys and the channels `first..first + channels`.
fn keep(rows: &[u32], first: usize, channels: usize, threshold: i32, device: Device) -> Tensor {
    if device == Device::Cpu {
        Tensor::from_slice(&keep_on_cpu(rows, first, channels, threshold))
    } else {
        keep_on_device(rows, first, channels, threshold, device)
    }
}

/// The multiplier that spreads channels (2^32 / golden ratio), and those of `lowbias32` (Wellons, 2018).
const MULTIPLIERS: [u32; 3] = [0x9e37_79b9, 0x7feb_352d, 0x846c_a68b];

fn keep_on_cpu(rows: &[u32], first: usize, channels: usize, threshold: i32) -> Vec<bool> {
    let [spread, first_factor, second_factor] = MULTIPLIERS;
    let fill = |rows: &[u32], kept: &mut [bool]| {
        for (row, kept) in rows.iter().zip(kept.chunks_mut(channels.max(1))) {
            for (channel, kept) in (first as u32..).zip(kept) {
                let mut x = row ^ channel.wrapping_mul(spread);
                x = (x ^ (x >> 16)).wrapping_mul(first_factor);
                x = (x ^ (x >> 15)).wrapping_mul(second_factor);
                *kept = (x ^ (x >> 16)) as i32 >= threshold;
            }
        }
    };
    let mut kept = vec![false; rows.len() * channels];
    let available = usize::try_from(tch::get_num_threads()).unwrap_or(1);
    let threads = available.min(kept.len() / PER_THREAD).max(1);
    let each = rows.len().div_ceil(threads).max(1);
    std::thread::scope(|scope| {
        for (chunk, (rows, kept)) in rows.chunks(each).zip(kept.chunks_mut((each * channels).max(1))).enumerate() {
            // This thread does the last chunk.
            if chunk + 1 < threads {
                scope.spawn(move || fill(rows, kept));
            } else {
                fill(rows, kept);
            }
        }
    });
    kept
}

/// Computes the same with tensors of 32-bit integers, whose products wrap.
fn keep_on_device(rows: &[u32], first: usize, channels: usize, threshold: i32, device: Device) -> Tensor {
    let [spread, first_factor, second_factor] = MULTIPLIERS.map(|factor| factor as i32);
    let columns: Vec<_> = (0..channels)
        .map(|channel| ((first + channel) as i32).wrapping_mul(spread))
        .collect();
    let rows: Vec<_> = rows.iter().map(|row| *row as i32).collect();
    let integers = |values: &[i32]| Tensor::from_slice(values).to_device(device);
    let scalar = |value: i32| Tensor::from(value).to_kind(Kind::Int).to_device(device);
    // A shift of signed integers copies the sign.
    let shifted = |x: &Tensor, bits: i32| {
        x.bitwise_right_shift(&scalar(bits))
            .bitwise_and_tensor(&scalar((1 << (32 - bits)) - 1))
    };
    let mut x = integers(&rows).unsqueeze(1).bitwise_xor_tensor(&integers(&columns));
    for (bits, factor) in [(16, first_factor), (15, second_factor)] {
        x = x.bitwise_xor_tensor(&shifted(&x, bits)) * scalar(factor);
    }
    x.bitwise_xor_tensor(&shifted(&x, 16)).ge(i64::from(threshold))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_and_threads_change_no_value() {
        let rows: Vec<u32> = (0..700u64).map(|row| mix(row) as u32).collect();
        let threshold = (0.3 * f64::from(u32::MAX)) as i64 + i64::from(i32::MIN);
        for (first, channels) in [(0, 1), (5, 33), (4096, 512)] {
            let cpu = Tensor::from_slice(&keep_on_cpu(&rows, first, channels, threshold as i32));
            let tensors = keep_on_device(&rows, first, channels, threshold as i32, Device::Cpu);
            assert!(cpu.view([700, channels as i64]).equal(&tensors), "{first} {channels}");
            let one = keep_on_cpu(&rows[..1], first, channels, threshold as i32);
            assert!(cpu.narrow(0, 0, channels as i64).equal(&Tensor::from_slice(&one)));
        }
    }

    /// Of about a million values, the kept ones are 1 - p within five standard deviations: in all of them, in each eighth of
    /// rows and of channels, and both of two neighbours.
    #[test]
    fn the_rate_is_that_of_independent_values() {
        let (rows, channels) = (1024usize, 1024usize);
        for probability in [0.05, 0.1, 0.5] {
            let keys: Vec<u32> = (0..rows as u64).map(|row| (mix(row ^ 77) >> 32) as u32).collect();
            let threshold = (probability * f64::from(u32::MAX)).round() as i64 + i64::from(i32::MIN);
            let kept = Tensor::from_slice(&keep_on_cpu(&keys, 0, channels, threshold as i32)).view([1024, 1024]);
            let check = |what: &str, kept: &Tensor, rate: f64| {
                let found = kept.to_kind(Kind::Double).mean(Kind::Double).double_value(&[]);
                let deviation = (rate * (1.0 - rate) / kept.numel() as f64).sqrt();
                assert!(
                    (found - rate).abs() < 5.0 * deviation,
                    "{what} at {probability}: {found}, expected {rate}"
                );
            };
            check("all", &kept, 1.0 - probability);
            for eighth in 0..8 {
                check("rows", &kept.narrow(0, eighth * 128, 128), 1.0 - probability);
                check("channels", &kept.narrow(1, eighth * 128, 128), 1.0 - probability);
            }
            let both = (1.0 - probability) * (1.0 - probability);
            let halves = |dim: i64| kept.narrow(dim, 0, 512).logical_and(&kept.narrow(dim, 512, 512));
            let neighbours = |dim: i64| kept.narrow(dim, 0, 1023).logical_and(&kept.narrow(dim, 1, 1023));
            for dim in [0, 1] {
                check("halves", &halves(dim), both);
                // Pairs overlap, so their deviation is larger.
                let pairs = neighbours(dim);
                let found = pairs.to_kind(Kind::Double).mean(Kind::Double).double_value(&[]);
                assert!((found - both).abs() < 5e-3, "neighbours at {probability}: {found}, expected {both}");
            }
        }
    }
}
