//! libtorch's formulae, which run where there are no kernels, against plain loops in f64 and their difference quotients.

use neva_kernels::{amax, quantize, rms_norm, rotate, swiglu};
use neva_torch_ffi::grad;
use tch::{Device, Kind, Tensor};

const STEP: f64 = 1e-5;

/// Returns values without a pattern, from -1 to 1.
fn values(count: usize, phase: f64) -> Vec<f64> {
    (0..count).map(|i| (1.7 * i as f64 + phase).sin()).collect()
}

/// Compares an operation's values, and its gradients by autograd.
fn compare(sizes: &[&[i64]], operation: impl Fn(&[Tensor]) -> Tensor, reference: impl Fn(&[Vec<f64>]) -> Vec<f64>) {
    let count = |size: &&[i64]| size.iter().product::<i64>() as usize;
    let mut inputs: Vec<_> = sizes
        .iter()
        .zip(1..)
        .map(|(size, phase)| values(count(size), f64::from(phase)))
        .collect();
    let tensors: Vec<_> = (inputs.iter().zip(sizes))
        .map(|(values, size)| Tensor::from_slice(values).to_kind(Kind::Float).view(*size).set_requires_grad(true))
        .collect();
    let y = operation(&tensors);
    let upstream = values(y.numel(), 0.3);
    let upstream_tensor = Tensor::from_slice(&upstream).to_kind(Kind::Float).view(y.size().as_slice());
    let leaves: Vec<_> = tensors.iter().collect();
    let gradients = grad(&[&y], &[Some(&upstream_tensor)], &leaves, false).unwrap();
    close(&y, &reference(&inputs), "values");
    let mut expected = inputs.clone();
    for (input, expected) in expected.iter_mut().enumerate() {
        for (index, expected) in expected.iter_mut().enumerate() {
            let middle = inputs[input][index];
            let mut loss = |at: f64| {
                inputs[input][index] = at;
                reference(&inputs).iter().zip(&upstream).map(|(y, weight)| y * weight).sum::<f64>()
            };
            *expected = (loss(middle + STEP) - loss(middle - STEP)) / (2.0 * STEP);
            inputs[input][index] = middle;
        }
    }
    for (index, (gradient, expected)) in gradients.iter().zip(&expected).enumerate() {
        close(gradient.as_ref().unwrap(), expected, &format!("gradient {index}"));
    }
}

fn close(tensor: &Tensor, expected: &[f64], what: &str) {
    let own = Vec::<f64>::try_from(tensor.detach().contiguous().view([-1]).to_kind(Kind::Double)).unwrap();
    assert_eq!(own.len(), expected.len(), "{what}");
    for (index, (own, expected)) in own.iter().zip(expected).enumerate() {
        assert!(
            (own - expected).abs() < 1e-5 * (1.0 + expected.abs()),
            "{what} at {index}: {own} instead of {expected}"
        );
    }
}

#[test]
fn rms_norm_is_the_paper_s() {
    let reference = |inputs: &[Vec<f64>]| {
        let rows = inputs[0].chunks(5).flat_map(|row| {
            let mean = row.iter().map(|value| value * value).sum::<f64>() / 5.0;
            row.iter()
                .zip(&inputs[1])
                .map(move |(value, weight)| value / (mean + 1e-5).sqrt() * weight)
                .collect::<Vec<_>>()
        });
        rows.collect()
    };
    compare(
        &[&[2, 3, 5], &[5]],
        |inputs| rms_norm(&inputs[0], &inputs[1], 1e-5).unwrap(),
        reference,
    );
}

#[test]
fn swiglu_is_the_paper_s() {
    let reference = |inputs: &[Vec<f64>]| {
        let pairs = inputs[0].iter().zip(&inputs[1]);
        pairs.map(|(gate, up)| gate / (1.0 + (-gate).exp()) * up).collect()
    };
    compare(&[&[2, 7], &[2, 7]], |inputs| swiglu(&inputs[0], &inputs[1]).unwrap(), reference);
}

/// A pair of values is a complex number, which is multiplied by one of magnitude 1.
#[test]
fn rope_turns_pairs() {
    let (heads, positions) = (2, 3);
    for (width, dim) in [(4_usize, 4_usize), (6, 4)] {
        let angle = |position: usize, pair: usize| position as f64 * [1.0, 0.25][pair];
        let angles: Vec<_> = (0..positions)
            .flat_map(|position| (0..dim).map(move |i| angle(position, i % (dim / 2))))
            .collect();
        let angles = Tensor::from_slice(&angles)
            .to_kind(Kind::Float)
            .view([1, 1, positions as i64, dim as i64]);
        let reference = |inputs: &[Vec<f64>]| {
            let mut y = inputs[0].clone();
            for (row, values) in y.chunks_mut(width).enumerate() {
                for pair in 0..dim / 2 {
                    let (real, imaginary) = (values[pair], values[pair + dim / 2]);
                    let (sin, cos) = angle(row % positions, pair).sin_cos();
                    values[pair] = real * cos - imaginary * sin;
                    values[pair + dim / 2] = real * sin + imaginary * cos;
                }
            }
            y
        };
        let size = [1, heads, positions as i64, width as i64];
        compare(
            &[&size],
            |inputs| rotate(&inputs[0], &angles.cos(), &angles.sin()).unwrap(),
            reference,
        );
    }
}

#[test]
fn casts_saturate_and_transpose() {
    let x = Tensor::from_slice(&[1.0_f32, -1000.0, 0.0, 3.0, 240.0, f32::MAX]).view([2, 3]);
    let scale = Tensor::from(2.0_f32);
    let largest = Tensor::from(7.0_f32);
    let cast = quantize(&x, &scale, Kind::Float8e4m3fn, true, Some(&largest)).unwrap();
    let floats = |data: &Tensor| Vec::<f32>::try_from(data.to_kind(Kind::Float).contiguous().view([-1])).unwrap();
    assert_eq!(floats(&cast.data), [2.0, -448.0, 0.0, 6.0, 448.0, 448.0]);
    assert_eq!(floats(&cast.transposed.unwrap()), [2.0, 6.0, -448.0, 448.0, 0.0, 448.0]);
    assert_eq!(largest.double_value(&[]), f64::from(f32::MAX));
    assert_eq!(
        amax(&Tensor::zeros([0, 3], (Kind::Float, Device::Cpu))).unwrap().double_value(&[]),
        0.0
    );
    let not_finite = Tensor::from_slice(&[1.0_f32, f32::NAN]);
    assert_eq!(amax(&not_finite).unwrap().double_value(&[]), f64::INFINITY);
}
