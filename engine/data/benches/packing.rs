//! Time to pack a buffer of samples with one thread, and the share of the rows that they fill.
//!
//!     cargo bench -p neva-data --bench packing
//!
//! Lengths are like those of LLaVA's 665,000 conversations: most have an image of 576 positions and text of a log-normal
//! length; one of sixteen is text alone, of up to 2048 positions.

use neva_data::pack_buffer;
use std::process::ExitCode;
use std::time::Instant;

const IMAGE: usize = 576;
const LONGEST: usize = 2048;
const ROUNDS: usize = 9;

/// Buffers and rows, with the share that must be filled.
const CASES: [(usize, usize, Option<f64>); 5] = [
    (10_000, 8192, Some(0.98)),
    (10_000, 16_384, Some(0.98)),
    (10_000, 4096, None),
    (1000, 8192, None),
    (200, 8192, None),
];

/// Longest time for 10,000 samples.
const MILLISECONDS: f64 = 10.0;

/// Returns a number in `(0, 1)`: SplitMix64.
fn uniform(state: &mut u64) -> f64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (((z ^ (z >> 31)) >> 11) as f64 + 0.5) / (1u64 << 53) as f64
}

fn lengths(count: usize) -> Vec<usize> {
    let mut state = 1;
    let mut text = |mean: f64, deviation: f64| {
        let normal = (-2.0 * uniform(&mut state).ln()).sqrt() * (std::f64::consts::TAU * uniform(&mut state)).cos();
        (mean + deviation * normal).exp() as usize
    };
    (0..count)
        .map(|sample| match sample % 16 {
            0 => text(6.3, 0.7).clamp(20, LONGEST),
            _ => (IMAGE + text(5.2, 0.6).max(30)).min(LONGEST),
        })
        .collect()
}

#[expect(clippy::print_stdout, reason = "a bench prints what it measured")]
fn main() -> ExitCode {
    println!(
        "{:>8} {:>8} {:>8} {:>10} {:>12} {:>10} {:>12}",
        "samples", "row", "rows", "ms", "at most ms", "filled", "at least"
    );
    let mut holds = true;
    for (samples, row_length, least) in CASES {
        let lengths = lengths(samples);
        let mut times: Vec<f64> = Vec::new();
        let mut rows = 0;
        for _ in 0..ROUNDS {
            let started = Instant::now();
            rows = pack_buffer(&lengths, row_length).len();
            times.push(started.elapsed().as_secs_f64() * 1e3);
        }
        times.sort_by(f64::total_cmp);
        let median = times[ROUNDS / 2];
        let filled = lengths.iter().sum::<usize>() as f64 / (rows * row_length) as f64;
        holds &= median <= MILLISECONDS && least.is_none_or(|least| filled >= least);
        let least = least.map_or_else(|| "-".to_owned(), |least| format!("{:.1} %", 100.0 * least));
        println!(
            "{samples:>8} {row_length:>8} {rows:>8} {median:>10.2} {MILLISECONDS:>12.2} {:>8.2} % {least:>12}",
            100.0 * filled
        );
    }
    if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
