//! Values and gradients of the kernels' source, computed on the CPU, against libtorch's formulae.

use crate::emulator::kernels;
use neva_kernels::comparison::Sizes;
use neva_kernels::source::KERNELS;
use tch::{Device, Kind, Tensor};

/// Sizes with and without rests of tiles, slabs and spans.
const SIZES: [Sizes; 3] = [
    Sizes {
        rows: 128,
        width: 256,
        mlp: 1024,
        heads: 2,
        head: 64,
    },
    Sizes {
        rows: 131,
        width: 70,
        mlp: 1027,
        heads: 3,
        head: 20,
    },
    Sizes {
        rows: 1,
        width: 3,
        mlp: 1,
        heads: 1,
        head: 4,
    },
];

#[test]
fn kernels_equal_the_formulae() {
    let _drawing = crate::seeded(1);
    for sizes in SIZES {
        for difference in kernels().compare(sizes).unwrap() {
            assert!(difference.greatest <= difference.bound, "{difference:?}");
        }
    }
    // None of them was left out.
    let calls = kernels().calls();
    let unused: Vec<_> = KERNELS.iter().zip(calls).filter(|(_, calls)| *calls == 0).collect();
    assert!(unused.is_empty(), "{unused:?}");
}

/// All values of bf16 and fp16, NaN and infinities among them, in both formats, as libtorch casts them.
#[test]
fn every_value_of_16_bits_is_cast_as_libtorch_does() {
    let options = (Kind::Int, Device::Cpu);
    let patterns = Tensor::arange(1 << 16, options).to_kind(Kind::Int16).view([256, 256]);
    let [bf16, fp16] = [Kind::BFloat16, Kind::Half].map(|kind| patterns.view_dtype(kind));
    let one = Tensor::ones([], (Kind::Float, Device::Cpu));
    for format in [Kind::Float8e4m3fn, Kind::Float8e5m2] {
        for x in [
            bf16.to_kind(Kind::Float),
            fp16.to_kind(Kind::Float),
            bf16.shallow_clone(),
            fp16.shallow_clone(),
        ] {
            let [own_amax, amax] = [(); 2].map(|()| Tensor::zeros([], (Kind::Float, Device::Cpu)));
            let own = kernels().quantize(&x, &one, format, true, Some(&own_amax)).unwrap();
            let theirs = neva_kernels::quantize(&x, &one, format, true, Some(&amax)).unwrap();
            let bytes = |data: &Tensor| data.view_dtype(Kind::Uint8);
            let differing = bytes(&own.data).ne_tensor(&bytes(&theirs.data)).nonzero();
            assert_eq!(differing.size()[0], 0, "{format:?}: {differing}");
            assert_eq!(bytes(&own.transposed.unwrap()), bytes(&theirs.transposed.unwrap()));
            assert_eq!((own_amax.double_value(&[]), amax.double_value(&[])), (f64::INFINITY, f64::INFINITY));
            for block in [[1, 128], [1, 32], [128, 128]] {
                if block[0] == 128 && format == Kind::Float8e5m2 {
                    continue;
                }
                let own = kernels().quantize_blocks(&x, block, format, true).unwrap();
                let theirs = neva_kernels::quantize_blocks(&x, block, format, true).unwrap();
                assert_eq!(bytes(&own.data), bytes(&theirs.data), "{format:?} in {block:?}");
                assert_eq!(own.scale_inv, theirs.scale_inv, "{format:?} in {block:?}");
            }
        }
    }
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    let x = Tensor::ones([3, 4], (Kind::Float, Device::Cpu));
    let scale = Tensor::ones([], (Kind::Float, Device::Cpu));
    let quantize = |x: &Tensor, scale: &Tensor, format| kernels().quantize(x, scale, format, false, None).map(|_| ());
    let blocks = |x: &Tensor, block, format| kernels().quantize_blocks(x, block, format, true).map(|_| ());
    for (result, text) in [
        (quantize(&x.transpose(0, 1), &scale, Kind::Float8e4m3fn), "is not contiguous"),
        (quantize(&x.view([12]), &scale, Kind::Float8e4m3fn), "is no matrix"),
        (quantize(&x, &x, Kind::Float8e4m3fn), "is no scalar"),
        (quantize(&x, &scale, Kind::Half), "is no FP8 format"),
        (quantize(&x.to_kind(Kind::Double), &scale, Kind::Float8e4m3fn), "there is no kernel"),
        (blocks(&x.transpose(0, 1), [1, 128], Kind::Float8e4m3fn), "is not contiguous"),
        (blocks(&x, [1, 64], Kind::Float8e4m3fn), "no kernel has [1, 64]"),
        (blocks(&x, [128, 128], Kind::Float8e5m2), "no kernel has [128, 128]"),
    ] {
        let error = result.unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    }
}
