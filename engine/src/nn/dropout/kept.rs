//! Masks of dropout: a hash of each row's key and each channel, against a threshold.

use tch::{Device, Kind, Tensor};

/// Fewest values for an additional thread.
const PER_THREAD: usize = 1 << 17;

/// Returns whether each value is kept, for rows with these keys and the channels `first..first + channels`.
pub(super) fn keep(rows: &[u32], first: usize, channels: usize, threshold: i32, device: Device) -> Tensor {
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
    use crate::random::mix;

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
