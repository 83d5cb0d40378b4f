//! Peak of a device, measured by matrix products.

use crate::error::Result;
use std::time::{Duration, Instant};
use tch::{Device, Kind, Tensor};

/// Sides of the square matrices; a GPU needs larger ones.
const CPU_SIDES: [i64; 3] = [512, 1024, 2048];
const GPU_SIDES: [i64; 3] = [2048, 4096, 8192];
/// Products of a size end after this time.
const TIME: Duration = Duration::from_millis(150);
/// Products of a size, at least.
const REPETITIONS: usize = 3;

/// Returns the operations a second of the fastest of several large matrix products in `kind`, in at most about a second.
/// Ranks that share a machine measure at the same time, so that each gets its share.
///
/// # Errors
/// libtorch refused.
pub fn measured_peak(kind: Kind, device: Device) -> Result<f64> {
    let sides = if device.is_cuda() { GPU_SIDES } else { CPU_SIDES };
    let wait = || {
        if let Device::Cuda(gpu) = device {
            tch::Cuda::synchronize(gpu as i64);
        }
    };
    let mut peak: f64 = 0.0;
    for side in sides {
        // Not zeros: they need less power, and a GPU would compute faster.
        let matrix = || Tensor::f_rand([side, side], (Kind::Float, device))?.f_to_kind(kind);
        let (x, weight) = (matrix()?, matrix()?);
        let mut slowest = Duration::ZERO;
        let started = Instant::now();
        let mut repetition = 0;
        while repetition < REPETITIONS || started.elapsed() < TIME {
            wait();
            let before = Instant::now();
            let product = x.f_matmul(&weight.tr())?;
            wait();
            let taken = before.elapsed();
            drop(product);
            peak = peak.max(2.0 * (side as f64).powi(3) / taken.as_secs_f64().max(1e-9));
            slowest = slowest.max(taken);
            repetition += 1;
        }
        // The next size takes eight times as long.
        if slowest > TIME / 2 {
            break;
        }
    }
    Ok(peak)
}
