//! Quantised values, scales and products against the reference.

use super::reference::{Delayed, E4M3, E5M2, Grid, Matrix};
use super::{RECIPES, settings};
use crate::setting::within_limit;
use neva_engine::comm::{Axis, Mesh};
use neva_engine::effects::{Effects, GemmGroup, GemmKind};
use neva_engine::fp8::{Float8Tensor, Format, Fp8Linear, Fp8Weight, Gemm, ScaleRows, ScalingStates, mx, recipe};
use neva_layout::Cut;
use neva_schemas::{Fp8, Fp8AmaxComputeAlgo, Fp8Format, Fp8Recipe};
use tch::{Device, Kind, Tensor};

const FORMATS: [(Format, Grid); 2] = [(Format::E4m3, E4M3), (Format::E5m2, E5M2)];

/// Returns random values of several magnitudes, the same in every run.
fn random(rows: usize, columns: usize, seed: u64) -> Matrix {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1u64 << 53) as f64 - 0.5
    };
    let values = (0..rows * columns).map(|_| f64::from((next() * 2f64.powi((next() * 8.0) as i32)) as f32));
    Matrix {
        rows,
        columns,
        values: values.collect(),
    }
}

fn tensor(matrix: &Matrix) -> Tensor {
    let flat = Tensor::from_slice(&matrix.values);
    flat.view([matrix.rows as i64, matrix.columns as i64]).to_kind(Kind::Float)
}

fn values(tensor: &Tensor) -> Vec<f64> {
    Vec::try_from(tensor.detach().to_kind(Kind::Double).contiguous().view([-1])).unwrap()
}

/// Asserts that values differ by at most `tolerance` of the largest expected one.
#[track_caller]
fn near(what: &str, got: &Tensor, expected: &Matrix, tolerance: f64) {
    let largest = expected.amax();
    assert!(largest > 0.0, "{what}: nothing to compare");
    let got = values(got);
    assert_eq!(got.len(), expected.values.len(), "{what}");
    for (index, (got, expected)) in got.iter().zip(&expected.values).enumerate() {
        let off = (got - expected).abs() / largest;
        assert!(
            off <= tolerance,
            "{what}: value {index} is {got:e}, expected {expected:e}, off by {off:e}"
        );
    }
}

#[test]
fn a_cast_saturates_and_rounds_to_the_nearest_value() {
    let special = [
        0.0,
        1.0,
        -1.0,
        447.9,
        448.0,
        449.0,
        464.0,
        500.0,
        57344.0,
        61440.0,
        1e9,
        f32::MAX,
        f32::INFINITY,
        f32::NEG_INFINITY,
        17.0,
        18.0,
        19.0,
        2.125,
        2.375,
        0.001,
        0.0009,
        0.001_953_125,
        0.000_976_562_5,
        1e-5,
        7.6e-6,
        1e-8,
        -3.3e-6,
    ];
    let many = random(64, 64, 7).values;
    let all: Vec<f32> = special
        .into_iter()
        .chain(many.iter().map(|value| (*value * 400.0) as f32))
        .collect();
    let x = Tensor::from_slice(&all).view([1, -1]);
    for (format, grid) in FORMATS {
        let one = Tensor::from(1f32);
        let got = values(&Float8Tensor::quantize(&x, &one, format).unwrap().dequantize(Kind::Float).unwrap());
        let expected: Vec<_> = all.iter().map(|value| grid.round(f64::from(*value))).collect();
        assert_eq!(got, expected, "{format:?}");
        assert_eq!(format.max(), grid.largest);
        let nan = Tensor::from_slice(&[f32::NAN, 1.0]).view([1, 2]);
        let got = values(&Float8Tensor::quantize(&nan, &one, format).unwrap().dequantize(Kind::Float).unwrap());
        assert!(got[0].is_nan() && got[1] == 1.0, "{format:?}: {got:?}");
    }
}

#[test]
fn current_scales_of_zero_and_of_values_that_are_not_finite_are_one() {
    for (format, grid) in FORMATS {
        let amaxes = [0.0f32, f32::INFINITY, 3.0, 1e-45, 1e38, 448.0];
        let scale = recipe::current(&Tensor::from_slice(&amaxes), format.max(), false).unwrap();
        let expected: Vec<_> = amaxes.iter().map(|amax| super::reference::scale(f64::from(*amax), grid)).collect();
        assert_eq!(values(&scale), expected, "{format:?}");
        assert_eq!(expected[..2], [1.0, 1.0]);
        let power = values(&recipe::current(&Tensor::from_slice(&amaxes), format.max(), true).unwrap());
        for (power, scale) in power.iter().zip(&expected) {
            assert!(
                power <= scale && 2.0 * power > *scale && power.log2().fract() == 0.0,
                "{power} for {scale}"
            );
        }
    }
    for (x, expected) in [(f32::NAN, f64::INFINITY), (f32::NEG_INFINITY, f64::INFINITY), (-2.5, 2.5)] {
        assert_eq!(values(&recipe::amax(&Tensor::from_slice(&[1.0, x])).unwrap()), [expected]);
    }
    assert_eq!(
        values(&recipe::amax(&Tensor::zeros([0, 4], (Kind::BFloat16, Device::Cpu))).unwrap()),
        [0.0]
    );
}

#[test]
fn delayed_scales_follow_transformer_engine() {
    let amaxes = [
        0.0,
        3.0,
        8.0,
        0.5,
        f64::NAN,
        0.25,
        0.0,
        16.0,
        f64::INFINITY,
        1e-44,
        2.0,
        2.5,
        1.0,
        1.0,
        1.0,
        1.0,
    ];
    let mut scales = std::collections::BTreeSet::new();
    for (len, algo, margin) in [
        (1, Fp8AmaxComputeAlgo::MostRecent, 0),
        (1, Fp8AmaxComputeAlgo::Max, 0),
        (4, Fp8AmaxComputeAlgo::MostRecent, 2),
        (4, Fp8AmaxComputeAlgo::Max, 0),
        (3, Fp8AmaxComputeAlgo::Max, 3),
    ] {
        let settings = Fp8 {
            amax_history_len: len,
            amax_compute_algo: algo,
            margin,
            ..settings()
        };
        let max = algo == Fp8AmaxComputeAlgo::Max;
        let mut expected = FORMATS.map(|(_, grid)| Delayed::new(len as usize, max, margin as i32, grid));
        let largest = Tensor::from_slice(&[448f32, 57344.0]);
        let (mut scale, mut history) = (
            Tensor::from_slice(&[1f32, 1.0]),
            Tensor::zeros([2, i64::from(len)], (Kind::Float, Device::Cpu)),
        );
        for (step, amax) in amaxes.iter().enumerate() {
            let seen = recipe::amax(&Tensor::from_slice(&[*amax as f32])).unwrap();
            history = recipe::push(&history, &Tensor::stack(&[&seen, &seen], 0)).unwrap();
            scale = recipe::delayed(&history, &scale, &largest, &settings).unwrap();
            for (got, expected) in values(&scale).into_iter().zip(&mut expected) {
                expected.finish_step(f64::from(*amax as f32));
                let off = (got - expected.scale).abs() / expected.scale;
                assert!(off < 2e-7, "{settings:?}, step {step}: {got:e}, expected {:e}", expected.scale);
            }
        }
        assert_eq!(history.size(), [2, i64::from(len)]);
        scales.insert(format!("{:?}", values(&scale)));
    }
    assert!(scales.len() >= 3, "the settings change nothing: {scales:?}");
}

/// Returns a linear without parallelism, and its state.
fn linear(settings: Fp8) -> (ScalingStates, Fp8Linear) {
    let states = ScalingStates::new(settings, ["l".to_owned()], Device::Cpu).unwrap();
    let group = Mesh::single().axis(Axis::Tensor).clone();
    let linear = states.linear("l", Cut::Replicate, &group).unwrap().unwrap();
    assert!(states.linear("another", Cut::Replicate, &group).unwrap().is_none());
    (states, linear)
}

/// Returns the quantised operands of a linear: input, weight, gradient, and the three transposed.
fn operands(settings: &Fp8, [x, w, g]: [&Matrix; 3], scales: [f64; 3]) -> [Matrix; 6] {
    let gradient = if settings.format == Fp8Format::Hybrid { E5M2 } else { E4M3 };
    match settings.recipe {
        Fp8Recipe::Blockwise => {
            let w = w.quantized_in_tiles([128, 128], E4M3);
            [
                x.quantized_in_tiles([1, 128], E4M3),
                w.clone(),
                g.quantized_in_tiles([1, 128], gradient),
                x.transposed().quantized_in_tiles([1, 128], E4M3),
                w.transposed(),
                g.transposed().quantized_in_tiles([1, 128], gradient),
            ]
        }
        Fp8Recipe::Mxfp8 => {
            let both = |matrix: &Matrix, grid| [matrix.clone(), matrix.transposed()].map(|matrix| matrix.quantized_in_tiles([1, 32], grid));
            let [[x, x_t], [w, w_t], [g, g_t]] = [both(x, E4M3), both(w, E4M3), both(g, gradient)];
            [x, w, g, x_t, w_t, g_t]
        }
        recipe => {
            let quantized = |matrix: &Matrix, scale: f64, grid| match recipe {
                Fp8Recipe::Delayed => matrix.quantized(scale, grid),
                _ => matrix.quantized_currently(grid),
            };
            let (x, g) = (quantized(x, scales[0], E4M3), quantized(g, scales[2], gradient));
            let w = quantized(w, scales[1], E4M3);
            [x.clone(), w.clone(), g.clone(), x.transposed(), w.transposed(), g.transposed()]
        }
    }
}

#[test]
fn the_three_products_of_a_linear_equal_the_reference() {
    within_limit(|| {
        // Neither tokens nor widths are multiples of 16 in the first case; the second one has several blocks.
        for ([t, i, o], scales) in [([23, 40, 24], [3.0, 50.0, 700.0]), ([130, 200, 150], [1.0, 1.0, 1.0])] {
            let (x, w, g) = (random(t, i, 1), random(o, i, 2), random(t, o, 3));
            for recipe in RECIPES {
                for (format, wgrad) in [(Fp8Format::Hybrid, true), (Fp8Format::Hybrid, false), (Fp8Format::E4m3, true)] {
                    let settings = Fp8 {
                        format,
                        recipe,
                        wgrad,
                        ..settings()
                    };
                    let what = format!("{t} tokens, {settings:?}");
                    let (states, linear) = linear(settings);
                    if recipe == Fp8Recipe::Delayed {
                        let history = Tensor::zeros([3, 1], (Kind::Float, Device::Cpu));
                        states
                            .restore("l", &Tensor::from_slice(&scales).to_kind(Kind::Float), &history)
                            .unwrap();
                    }
                    let [x_q, w_q, g_q, x_t, w_t, g_t] = operands(&settings, [&x, &w, &g], scales);
                    let (x_in, weight) = (tensor(&x).set_requires_grad(true), tensor(&w).set_requires_grad(true));
                    let effects = Effects::default();
                    let meter = effects.meter(GemmGroup::Decoder);
                    // As [b, s, h].
                    let y = linear.apply(&x_in.unsqueeze(0), None, Fp8Weight::Trained(&weight), &meter).unwrap();
                    assert_eq!(y.size(), [1, t as i64, o as i64]);
                    y.backward_with(&tensor(&g).unsqueeze(0));
                    near(&format!("{what}: forward"), &y, &x_q.times_transposed(&w_q), 1e-6);
                    near(&format!("{what}: dgrad"), &x_in.grad(), &g_q.times_transposed(&w_t), 1e-6);
                    let dw = match wgrad {
                        true => g_t.times_transposed(&x_t),
                        false => g.transposed().times_transposed(&x.transposed()),
                    };
                    near(&format!("{what}: wgrad"), &weight.grad(), &dw, 1e-6);
                    let flops = 2 * (t * i * o) as u64;
                    let at = GemmGroup::Decoder as usize * GemmKind::ALL.len();
                    let counted = effects.flops();
                    let in_fp8 = if wgrad { 3 * flops } else { 2 * flops };
                    assert_eq!(counted[at + GemmKind::Fp8Emulated as usize], in_fp8, "{what}");
                    assert_eq!(counted.iter().sum::<u64>(), 3 * flops, "{what}");

                    let frozen = match recipe::frozen_blocks(recipe) {
                        Some(blocks) => Float8Tensor::quantize_tiles(&tensor(&w), blocks, Format::E4m3).unwrap(),
                        None => {
                            let scale = recipe::current(&recipe::amax(&tensor(&w)).unwrap(), 448.0, false).unwrap();
                            Float8Tensor::quantize(&tensor(&w), &scale, Format::E4m3).unwrap()
                        }
                    };
                    let w_q = match recipe {
                        Fp8Recipe::Blockwise => w.quantized_in_tiles([128, 128], E4M3),
                        Fp8Recipe::Mxfp8 => w.quantized_in_tiles([32, 32], E4M3),
                        Fp8Recipe::Delayed | Fp8Recipe::Tensorwise => w.quantized_currently(E4M3),
                    };
                    let x_in = tensor(&x).set_requires_grad(true);
                    let shared = linear.quantize_input(&x_in, true).unwrap();
                    let y = linear.apply(&x_in, Some(&shared), Fp8Weight::Frozen(&frozen), &meter).unwrap();
                    y.backward_with(&tensor(&g));
                    near(&format!("{what}: forward, frozen"), &y, &x_q.times_transposed(&w_q), 1e-6);
                    near(
                        &format!("{what}: dgrad, frozen"),
                        &x_in.grad(),
                        &g_q.times_transposed(&w_q.transposed()),
                        1e-6,
                    );
                }
            }
        }
    });
}

/// libtorch's `_scaled_mm` on a CPU, which takes the same matrices as on a GPU, with the same padding.
#[test]
fn scaled_mm_equals_products_of_the_values() {
    for (m, k, n) in [(32, 64, 16), (23, 40, 24), (1, 5, 3)] {
        for (left, right) in [(Format::E4m3, Format::E4m3), (Format::E5m2, Format::E4m3)] {
            let quantized = |rows, columns, seed, format, scale: f32| {
                let scale = Tensor::from(scale);
                Float8Tensor::quantize(&tensor(&random(rows, columns, seed)), &scale, format).unwrap()
            };
            let (a, b) = (quantized(m, k, 1, left, 3.0), quantized(n, k, 2, right, 0.7));
            let product = |gemm: Gemm| gemm.multiply(&a, &b, Kind::Float, true).unwrap();
            let (own, expected) = (product(Gemm::ScaledMm), product(Gemm::Dequantized));
            assert_eq!(own.size(), [m as i64, n as i64]);
            let off = ((&own - &expected).abs().max() / expected.abs().max()).double_value(&[]);
            assert!(off < 1e-6, "{m}x{k}x{n}, {left:?} x {right:?}: {off:e}");
        }
    }
}

/// The conditions of libtorch's `ScaledBlas.cpp` (`is_blockwise_1x128_scaling`, `is_blockwise_128x128_scaling`) for scales of
/// blocks, which no CPU multiplies by.
#[test]
fn scales_of_blocks_lie_as_libtorch_reads_them() {
    for (rows, columns) in [(256, 640), (300, 1000), (16, 128), (5, 7)] {
        let x = random(rows, columns, 9);
        let row_blocks = Float8Tensor::quantize_tiles(&tensor(&x), [1, 128], Format::E4m3).unwrap();
        let squares = Float8Tensor::quantize_tiles(&tensor(&x), [128, 128], Format::E4m3).unwrap();
        let (rows, across, down) = (rows as i64, (columns as i64 + 127) / 128, (rows as i64 + 127) / 128);
        let padded = (rows + 15) / 16 * 16;
        for (operand, layout, size, stride) in [
            (&row_blocks, ScaleRows::InFours, [padded, across], [1, padded]),
            (&row_blocks, ScaleRows::Packed, [padded, across], [1, padded]),
            (&squares, ScaleRows::InFours, [down, across], [(across + 3) / 4 * 4, 1]),
            (&squares, ScaleRows::Packed, [down, across], [across, 1]),
        ] {
            let scales = layout.of(operand).unwrap();
            assert_eq!(scales.size(), size);
            // A dim of one value has any stride.
            let strides = scales.stride();
            let fits = |dim: usize| size[dim] == 1 || strides[dim] == stride[dim];
            assert!(fits(0) && fits(1), "{layout:?}: {strides:?}");
            let own = operand.scale_inv();
            assert_eq!(&scales.narrow(0, 0, own.size()[0]), own);
            assert!(scales.data_ptr().addr().is_multiple_of(16));
        }
    }
}

/// The layout of cuBLAS's documentation ("1D block scaling factors layout") and the number of bytes that libtorch's
/// `is_blockwise_1x32_scaling` asks for.
#[test]
fn scales_of_mxfp8_lie_as_cublas_reads_them() {
    for (rows, columns) in [(256, 640), (300, 1000), (16, 32), (5, 7)] {
        let x = tensor(&random(rows, columns, 9));
        for blocks in [[1, 32], [32, 32]] {
            let operand = Float8Tensor::quantize_tiles(&x, blocks, Format::E4m3).unwrap();
            let inverse = operand.scale_inv();
            let tiles_across = columns.div_ceil(32).div_ceil(4);
            let numbers = values(&mx::scales(&operand).unwrap());
            assert_eq!(numbers.len(), rows.div_ceil(128) * 128 * tiles_across * 4);
            let mut expected = vec![2f64.powi(-127); numbers.len()];
            for row in 0..rows {
                for column in 0..columns.div_ceil(32) {
                    let tile = row / 128 * tiles_across + column / 4;
                    let at = tile * 512 + row % 32 * 16 + row % 128 / 32 * 4 + column % 4;
                    expected[at] = inverse.double_value(&[row as i64 / blocks[0], column as i64]);
                }
            }
            assert_eq!(numbers, expected, "{rows}x{columns} in {blocks:?}");
        }
    }
    // The smallest and the largest scale of finite values, and those of zeros and of values that are not finite.
    let rows = [f32::MIN_POSITIVE, f32::MAX, 0.0, f32::NAN, f32::INFINITY];
    let x = Tensor::from_slice(&rows).view([-1, 1]).repeat([1, 32]);
    let operand = Float8Tensor::quantize_tiles(&x, [1, 32], Format::E4m3).unwrap();
    let numbers = values(&mx::scales(&operand).unwrap());
    let own: Vec<_> = (0..rows.len()).map(|row| numbers[row * 16]).collect();
    assert_eq!(own, [2f64.powi(-127), 2f64.powi(120), 1.0, 1.0, 1.0]);
}

trait BackwardWith {
    /// Runs a backward pass from this tensor with its gradient.
    fn backward_with(&self, grad: &Tensor);
}

impl BackwardWith for Tensor {
    fn backward_with(&self, grad: &Tensor) {
        neva_torch_ffi::backward(&[self], &[Some(grad)], false).unwrap();
    }
}

#[test]
fn amaxes_count_in_training_steps_alone() {
    within_limit(|| {
        let settings = Fp8 {
            amax_history_len: 3,
            ..settings()
        };
        let (states, linear) = linear(settings);
        let meter = Effects::default().meter(GemmGroup::Decoder);
        let weight = tensor(&random(16, 16, 1)).set_requires_grad(true);
        let pass = |factor: f64| {
            let x = tensor(&random(16, 16, 2)) * factor;
            let y = linear.apply(&x, None, Fp8Weight::Trained(&weight), &meter).unwrap();
            y.backward_with(&(tensor(&random(16, 16, 3)) * (2.0 * factor)));
        };
        let history = || values(&states.states().next().unwrap().amax_history);
        let [x, w, g] = [2, 1, 3].map(|seed| random(16, 16, seed).amax());
        // A validation quantises the weight, which is kept for the step.
        tch::no_grad(|| {
            let x = tensor(&random(16, 16, 2)) * 100.0;
            let _ = linear.apply(&x, None, Fp8Weight::Trained(&weight), &meter).unwrap();
        });
        states.begin_passes().unwrap();
        // The largest magnitude of all microbatches counts, and repeated passes change nothing.
        [1.0, 4.0, 2.0, 4.0].into_iter().for_each(pass);
        states.end_passes();
        pass(50.0);
        states.finish_step(&Mesh::single(), 0).unwrap();
        assert_eq!(history(), [4.0 * x, 0.0, 0.0, w, 0.0, 0.0, 8.0 * g, 0.0, 0.0]);
        let scale = values(&states.states().next().unwrap().scale);
        for (scale, amax) in scale.iter().zip([4.0 * x, w, 8.0 * g * 448.0 / 57344.0]) {
            assert!((scale - 448.0 / amax).abs() < 1e-6 * scale, "{scale} for {amax}");
        }
        states.begin_passes().unwrap();
        pass(2.0);
        states.end_passes();
        states.finish_step(&Mesh::single(), 1).unwrap();
        assert_eq!(history(), [2.0 * x, 4.0 * x, 0.0, w, w, 0.0, 4.0 * g, 8.0 * g, 0.0]);
    });
}

#[test]
fn scales_are_updated_in_intervals() {
    within_limit(|| {
        let settings = Fp8 { interval: 3, ..settings() };
        let (states, linear) = linear(settings);
        let meter = Effects::default().meter(GemmGroup::Decoder);
        let weight = tensor(&random(16, 16, 1));
        let mut scales = Vec::new();
        for step in 0..6 {
            states.begin_passes().unwrap();
            let x = tensor(&random(16, 16, 2)) * (step + 1) as f64;
            let _ = linear.apply(&x, None, Fp8Weight::Trained(&weight), &meter).unwrap();
            states.end_passes();
            states.finish_step(&Mesh::single(), step).unwrap();
            scales.push(values(&states.states().next().unwrap().scale)[0]);
        }
        assert_eq!(scales[..2], [1.0, 1.0]);
        assert!(
            scales[2] != 1.0 && scales[3] == scales[2] && scales[4] == scales[2] && scales[5] == scales[2] / 2.0,
            "{scales:?}"
        );
    });
}

#[test]
fn a_history_of_another_length_keeps_its_newest_values() {
    let restored = |len: u32, history: &[f32]| {
        let settings = Fp8 {
            amax_history_len: len,
            ..settings()
        };
        let (states, _) = linear(settings);
        let history = Tensor::from_slice(history).view([1, -1]).repeat([3, 1]);
        states.restore("l", &Tensor::from_slice(&[2f32, 3.0, 4.0]), &history).unwrap();
        let state = states.states().next().unwrap();
        assert_eq!(values(&state.scale), [2.0, 3.0, 4.0]);
        values(&state.amax_history.select(0, 1))
    };
    assert_eq!(restored(2, &[5.0, 6.0, 7.0]), [5.0, 6.0]);
    assert_eq!(restored(4, &[5.0, 6.0]), [5.0, 6.0, 0.0, 0.0]);
    let (states, _) = linear(settings());
    let scale = Tensor::from_slice(&[1f32, 1.0, 1.0]);
    assert!(states.restore("l", &scale, &Tensor::from_slice(&[1f32, 2.0])).is_err());
    assert!(states.restore("another", &scale, &scale.view([3, 1])).is_err());
}
