//! The processor's kernels with each of its instruction sets: rows against the formulae of `comparison`, attention and cross
//! entropy against libtorch in fp64.

use neva_kernels::comparison::Sizes;
use neva_kernels::{Halves, InstructionSet, Kernels, Segment, attention, cross_entropy_with, prefers_blocked_attention};
use neva_torch_ffi::grad;
use tch::{Device, Kind, Tensor};

#[test]
fn rows_equal_the_formulae() {
    let _drawing = crate::seeded(2);
    for set in InstructionSet::available() {
        for (rows, width, mlp, heads, head) in [(37, 70, 1027, 3, 20), (1, 3, 1, 1, 4), (129, 768, 2048, 12, 64)] {
            let sizes = Sizes {
                rows,
                width,
                mlp,
                heads,
                head,
            };
            for difference in Kernels::of_processor(set).compare(sizes).unwrap() {
                assert!(difference.greatest <= difference.bound, "{set:?}: {difference:?}");
            }
        }
    }
}

/// Greatest difference, relative to the greatest magnitude of `theirs`, or to that of the inputs where `theirs` is nearly zero: a
/// gradient of a single key is zero, as a difference of equal terms.
fn relative(own: &Tensor, theirs: &Tensor) -> f64 {
    assert_eq!(own.size(), theirs.size());
    let difference = (own.to_kind(Kind::Double) - theirs).abs().max().double_value(&[]);
    difference / theirs.abs().max().double_value(&[]).max(1.0)
}

/// libtorch's attention in fp64 within each segment, without a kernel of its own.
fn reference(qkv: &[Tensor], segments: &[Segment], causal: bool) -> Tensor {
    let (groups, size) = (qkv[0].size()[1] / qkv[1].size()[1], qkv[0].size());
    let rows = (0..size[0]).map(|row| {
        let mut parts = Vec::new();
        let mut end = 0;
        for segment in segments.iter().filter(|segment| segment.row as i64 == row) {
            let of = |x: &Tensor| x.narrow(0, row, 1).narrow(2, segment.start as i64, segment.len as i64);
            let shared = |x: &Tensor| of(x).repeat_interleave_self_int(groups, 1, None);
            parts.push(Tensor::zeros(
                [1, size[1], segment.start as i64 - end, size[3]],
                (Kind::Double, Device::Cpu),
            ));
            let (q, k, v) = (of(&qkv[0]), shared(&qkv[1]), shared(&qkv[2]));
            parts.push(Tensor::internal_scaled_dot_product_attention_math(&q, &k, &v, None::<Tensor>, 0.0, causal, None, None, false).0);
            end = (segment.start + segment.len) as i64;
        }
        parts.push(Tensor::zeros([1, size[1], size[2] - end, size[3]], (Kind::Double, Device::Cpu)));
        Tensor::cat(&parts, 2)
    });
    Tensor::cat(&rows.collect::<Vec<_>>(), 0)
}

#[test]
fn attention_is_exact_within_rounding() {
    let _drawing = crate::seeded(3);
    // Rows, query heads, key heads, positions, width of a head, causal.
    let cases = [
        (2, 4, 4, 200, 64, true),
        (2, 4, 2, 197, 64, false),
        (1, 6, 2, 130, 128, true),
        (2, 2, 1, 77, 80, true),
        (2, 2, 2, 65, 96, false),
        (1, 2, 2, 5, 32, true),
        (3, 1, 1, 1, 16, true),
    ];
    for ((b, n, kv, s, d, causal), kind) in cases.into_iter().flat_map(|case| [(case, Kind::Float), (case, Kind::BFloat16)]) {
        let rows = |heads: i64| {
            let values = Tensor::randn([b, s, heads, d], (Kind::Float, Device::Cpu)).to_kind(kind);
            values.transpose(1, 2).set_requires_grad(true)
        };
        let inputs = [rows(n), rows(kv), rows(kv)];
        let upstream = rows(n).detach();
        let length = s as usize;
        let segment = |row: i64, start, len| Segment {
            row: row as usize,
            start,
            len,
        };
        let whole: Vec<_> = (0..b).map(|row| segment(row, 0, length)).collect();
        // Two segments and padding in the first row, one with padding before it in the last row.
        let cut = vec![
            segment(0, 0, length / 3),
            segment(0, length / 3, length / 2),
            segment(b - 1, length - length / 7 - 1, length / 7 + 1),
        ];
        for segments in [whole, cut.into_iter().filter(|segment| segment.len > 0).collect()] {
            let overlapping = b == 1 && segments.len() > 2;
            if overlapping && segments[2].start < segments[1].start + segments[1].len {
                assert!(attention(&inputs[0], &inputs[1], &inputs[2], &segments, causal).is_err());
                continue;
            }
            let Ok(o) = attention(&inputs[0], &inputs[1], &inputs[2], &segments, causal) else {
                // Nobody may ask for it then.
                assert!(!prefers_blocked_attention(&inputs[0], &inputs[1]));
                let has = |set| InstructionSet::available().any(|own| own == set);
                let needed = if kind == Kind::Float {
                    InstructionSet::Avx512
                } else {
                    InstructionSet::Avx512Bf16
                };
                assert!(!has(needed), "{kind:?} b{b} n{n} s{s} d{d}");
                continue;
            };
            let wide = inputs.each_ref().map(|x| x.detach().to_kind(Kind::Double).set_requires_grad(true));
            let theirs = reference(&wide, &segments, causal);
            let leaves = |inputs: &[Tensor; 3], o: &Tensor, upstream: &Tensor| {
                let inputs: Vec<_> = inputs.iter().collect();
                grad(&[o], &[Some(upstream)], &inputs, false).unwrap()
            };
            let own_grads = leaves(&inputs, &o, &upstream);
            let their_grads = leaves(&wide, &theirs, &upstream.to_kind(Kind::Double));
            let bound = if kind == Kind::Float { 5e-6 } else { 2e-2 };
            let case = format!("{kind:?} b{b} n{n}/{kv} s{s} d{d} causal {causal} {segments:?}");
            let error = relative(&o, &theirs);
            assert!(error < bound, "{case}: values {error}");
            for (name, (own, theirs)) in ["q", "k", "v"].iter().zip(own_grads.iter().zip(&their_grads)) {
                let error = relative(own.as_ref().unwrap(), theirs.as_ref().unwrap());
                assert!(error < bound, "{case}: gradient of {name} {error}");
            }
        }
    }
}

/// One thread computes a head, so the number of threads changes no bit.
#[test]
fn attention_does_not_depend_on_the_number_of_threads() {
    let _drawing = crate::seeded(4);
    let rows = || Tensor::randn([2, 70, 3, 32], (Kind::Float, Device::Cpu)).transpose(1, 2);
    let inputs = [rows(), rows(), rows()];
    let segments = [0, 1].map(|row| Segment { row, start: 0, len: 70 });
    let compute = || attention(&inputs[0], &inputs[1], &inputs[2], &segments, true).ok();
    let before = tch::get_num_threads();
    let results = [1, 2, 3].map(|threads| {
        tch::set_num_threads(threads);
        compute()
    });
    tch::set_num_threads(before);
    assert_eq!(results[0], results[1]);
    assert_eq!(results[0], results[2]);
}

#[test]
fn cross_entropy_is_that_of_the_softmax() {
    let _drawing = crate::seeded(5);
    for (set, (rows, width), kind) in InstructionSet::available().flat_map(|set| {
        let shapes = [(1, 1), (3, 16), (5, 37), (40, 2000)];
        shapes
            .into_iter()
            .flat_map(move |shape| [Kind::Float, Kind::BFloat16].map(|kind| (set, shape, kind)))
    }) {
        let logits = (Tensor::randn([rows, width], (Kind::Float, Device::Cpu)) * 8.0).to_kind(kind);
        let targets = Tensor::randint(width, [rows], (Kind::Int64, Device::Cpu));
        let wide = logits.to_kind(Kind::Double).set_requires_grad(true);
        let theirs = -wide
            .log_softmax(1, Kind::Double)
            .gather(1, &targets.unsqueeze(1), false)
            .squeeze_dim(1);
        theirs.sum(Kind::Double).backward();
        let kept = logits.copy();
        let losses = cross_entropy_with(set, &kept, &targets, false).unwrap();
        assert_eq!(kept, logits, "without gradients the logits stay");
        let case = format!("{set:?} {rows}x{width} {kind:?}");
        let error = relative(&losses, &theirs.detach());
        assert!(error < 2e-6, "{case}: {error}");
        assert_eq!(losses, cross_entropy_with(set, &kept, &targets, true).unwrap());
        let error = (kept.to_kind(Kind::Double) - wide.grad()).abs().max().double_value(&[]);
        assert!(error < if kind == Kind::Float { 2e-6 } else { 4e-3 }, "{case}: gradient {error}");
    }
    // A target of another rank's rows: only the softmax remains.
    let logits = Tensor::zeros([1, 4], (Kind::Float, Device::Cpu));
    let losses = cross_entropy_with(InstructionSet::Generic, &logits, &Tensor::from_slice(&[-1i64]), true).unwrap();
    assert_eq!(Vec::<f32>::try_from(logits.view([-1])).unwrap(), [0.25; 4]);
    assert!((losses.double_value(&[0]) - 4f64.ln()).abs() < 1e-6);
}

#[test]
fn what_does_not_fit_is_refused() {
    let x = |size: &[i64]| Tensor::ones(size, (Kind::Float, Device::Cpu));
    let one = [Segment { row: 0, start: 0, len: 9 }];
    let targets = Tensor::from_slice(&[0i64, 1]);
    let entropy = |logits: &Tensor, targets: &Tensor| cross_entropy_with(InstructionSet::Generic, logits, targets, true).map(drop);
    for result in [
        attention(&x(&[1, 2, 8, 16]), &x(&[1, 2, 8, 16]), &x(&[1, 2, 8, 16]), &one, true).map(drop),
        attention(&x(&[1, 3, 9, 16]), &x(&[1, 2, 9, 16]), &x(&[1, 2, 9, 16]), &one, true).map(drop),
        attention(&x(&[1, 2, 9, 12]), &x(&[1, 2, 9, 12]), &x(&[1, 2, 9, 12]), &one, true).map(drop),
        entropy(&x(&[2, 3]).to_kind(Kind::Half), &targets),
        entropy(&x(&[3, 2]).transpose(0, 1), &targets),
        entropy(&x(&[3, 2]), &targets),
    ] {
        assert!(result.is_err());
    }
}

/// Halves of values of all exponents, of values halfway between two bfloat16, of zeros and infinities.
#[test]
fn halves_are_the_nearest_bfloat16_and_the_rest() {
    // Spread over all 32 bits by the golden ratio; libtorch's generator is shared with the other tests.
    let bits = (Tensor::arange(100_003, (Kind::Int64, Device::Cpu)) * 0x9e37_79b1i64 + 12_345).to_kind(Kind::Int);
    let ties = (bits.narrow(0, 0, 1000).bitwise_right_shift_tensor_scalar(16)).bitwise_left_shift_tensor_scalar(16) + 0x8000;
    let special = Tensor::from_slice(&[0.0f32, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN_POSITIVE, 1e-45]);
    let values = Tensor::cat(&[bits.view_dtype(Kind::Float), ties.view_dtype(Kind::Float), special], 0);
    let values = values.masked_select(&values.isnan().logical_not());
    assert!(values.numel() > 90_000);
    let expected = values.to_kind(Kind::BFloat16);
    for set in InstructionSet::available() {
        let halves = Halves::of(expected.zeros_like()).unwrap();
        halves.set_with(set, &values).unwrap();
        assert!(halves.high().equal(&expected), "{set:?}");
        let joined = values.zeros_like();
        halves.join(&joined).unwrap();
        let [own, theirs] = [&joined, &values].map(|values| values.view_dtype(Kind::Int));
        // One bit, of values halfway between two bfloat16 that were rounded down.
        let is_tie = theirs.bitwise_and(0x1_ffff).eq(0x8000).to_kind(Kind::Int);
        assert!(
            (&own - &theirs).abs().equal(&is_tie) && is_tie.sum(Kind::Int64).int64_value(&[]) > 100,
            "{set:?}"
        );
        assert!(joined.to_kind(Kind::BFloat16).equal(&expected), "{set:?}");
        let mut bytes = vec![0u8; joined.numel() * 4];
        joined.view_dtype(Kind::Uint8).copy_data_u8(&mut bytes, joined.numel() * 4);
        assert!(halves.bytes() == bytes, "{set:?}");
        // Joined values have the same halves.
        let again = Halves::of(expected.zeros_like()).unwrap();
        again.set_with(set, &joined).unwrap();
        assert!(again.high().equal(&expected) && again.bytes() == bytes, "{set:?}");
    }
    let nan = Tensor::from(f32::NAN).view([1]);
    let halves = Halves::of(nan.to_kind(Kind::BFloat16)).unwrap();
    halves.set(&nan).unwrap();
    let joined = nan.zeros_like();
    halves.join(&joined).unwrap();
    assert!([halves.high(), &joined].iter().all(|half| half.isnan().all().int64_value(&[]) == 1));
    assert!(halves.join(&expected).is_err() && Halves::of(nan).is_err());
}
