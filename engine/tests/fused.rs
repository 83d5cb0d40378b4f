//! Blocks that compute with the kernels of a GPU, emulated on the CPU, against the same blocks without kernels. It is a test
//! program of its own, since the kernels serve the whole process.
#![expect(unsafe_code, reason = "the emulator is a foreign library")]
#![expect(clippy::unwrap_used, reason = "a test that cannot continue has failed")]

#[path = "../kernels/tests/kernels/emulator.rs"]
mod emulator;

use neva_engine::comm::{Axis, Mesh};
use neva_engine::effects::{Effects, GemmGroup};
use neva_engine::fp8::{Float8Tensor, Format, Fp8Weight, ScalingStates, recipe};
use neva_engine::nn::{Build, Rope, RopeFrequencies, TensorRegion, gated};
use neva_engine::parameters::{Parameter, Parameters};
use neva_kernels::Kernels;
use neva_kernels::source::KERNELS;
use neva_layout::{Adapters, Cut, Init, ParamSpec, Part, PartialSum, Stage};
use neva_schemas::{Activation, Fp8, Fp8AmaxComputeAlgo, Fp8Format, Fp8Recipe, MegatronStrategy};
use tch::{Device, Kind, Tensor};

/// Returns values, gradients and scales of FP8 linears: each recipe, trained and frozen, with and without
/// weight gradients in FP8, with sizes that are multiples of a tile and not.
fn linears() -> Vec<Tensor> {
    let mut found = Vec::new();
    for (recipe, wgrad, [t, i, o]) in [
        (Fp8Recipe::Delayed, true, [64, 128, 64]),
        (Fp8Recipe::Delayed, false, [64, 128, 64]),
        (Fp8Recipe::Tensorwise, true, [37, 50, 70]),
        (Fp8Recipe::Blockwise, true, [130, 256, 140]),
        (Fp8Recipe::Blockwise, false, [37, 50, 70]),
        (Fp8Recipe::Mxfp8, true, [130, 256, 140]),
        (Fp8Recipe::Mxfp8, false, [37, 50, 70]),
    ] {
        let settings = Fp8 {
            format: Fp8Format::Hybrid,
            recipe,
            margin: 0,
            interval: 1,
            amax_history_len: 4,
            amax_compute_algo: Fp8AmaxComputeAlgo::Max,
            wgrad,
            param_gather: false,
            layers_at_start_in_bf16: 0,
            layers_at_end_in_bf16: 0,
            emulate: true,
            vision_model: false,
            vision_projection: false,
        };
        let mesh = Mesh::single();
        let states = ScalingStates::new(settings, ["l".to_owned()], Device::Cpu).unwrap();
        let linear = states.linear("l", Cut::Replicate, mesh.axis(Axis::Tensor)).unwrap().unwrap();
        let meter = Effects::default().meter(GemmGroup::Decoder);
        let random = |size: [i64; 2]| Tensor::randn(size, (Kind::Float, Device::Cpu)).to_kind(Kind::BFloat16);
        let weight = random([o, i]).set_requires_grad(true);
        let scale = recipe::current(&recipe::amax(&weight.detach()).unwrap(), 448.0, false).unwrap();
        let frozen = match recipe::frozen_blocks(recipe) {
            Some(blocks) => Float8Tensor::quantize_tiles(&weight.detach(), blocks, Format::E4m3).unwrap(),
            None => Float8Tensor::quantize(&weight.detach(), &scale, Format::E4m3).unwrap(),
        };
        for step in 0..2 {
            states.begin_passes().unwrap();
            // The input is quantised for several linears, and for one.
            for shared in [true, false] {
                let (x, g) = (random([t, i]).set_requires_grad(true), random([t, o]));
                let quantized = shared.then(|| linear.quantize_input(&x, true).unwrap());
                let y = linear.apply(&x, quantized.as_ref(), Fp8Weight::Trained(&weight), &meter).unwrap();
                (y.shallow_clone() * &g).sum(Kind::Float).backward();
                found.extend([y.detach(), x.grad().copy(), weight.grad().copy()]);
                let x = x.detach().set_requires_grad(true);
                let y = linear.apply(&x, None, Fp8Weight::Frozen(&frozen), &meter).unwrap();
                (y.shallow_clone() * &g).sum(Kind::Float).backward();
                found.extend([y.detach(), x.grad().copy()]);
            }
            states.end_passes();
            states.finish_step(&mesh, step).unwrap();
            found.extend(states.states().flat_map(|state| [state.scale.copy(), state.amax_history.copy()]));
        }
    }
    found
}

/// Returns values and gradients of an RMS norm as the model builds it.
fn norm() -> [Tensor; 3] {
    let random = |size: &[i64]| Tensor::randn(size, (Kind::Float, Device::Cpu)).set_requires_grad(true);
    let (x, weight_h) = (random(&[2, 9, 24]), random(&[24]));
    let spec = ParamSpec {
        name: "norm.weight".into(),
        shape: vec![24],
        init: Init::Ones,
        cut: Cut::Replicate,
        heads: None,
        stage: Stage::First,
        part: Part::Language,
        adapts: None,
        lora: None,
        partial_sum: PartialSum::Never,
        used: true,
    };
    let mut parameters = Parameters::default();
    parameters.insert(Parameter {
        spec,
        tensor: weight_h.shallow_clone(),
        trainable: true,
        quantized: None,
    });
    let (mesh, adapters, strategy) = (Mesh::single(), Adapters::default(), MegatronStrategy::default());
    let region = TensorRegion::new(mesh.axis(Axis::Tensor).clone(), false);
    let norm = Build::new(&parameters, &adapters, region, &strategy)
        .rms_norm("norm", 1e-5)
        .unwrap();
    let y = norm.forward(&x).unwrap();
    (&y * &y.detach().sin()).sum(Kind::Float).backward();
    [y.detach(), x.grad(), weight_h.grad()]
}

/// Returns values and gradients of norms, rotary embeddings and gated activations.
fn others() -> Vec<Tensor> {
    let random = |size: &[i64]| Tensor::randn(size, (Kind::Float, Device::Cpu)).set_requires_grad(true);
    // Segments of a packed row have positions of their own.
    let positions: Vec<Vec<i64>> = vec![(0..9).collect(), (0..4).chain(0..5).collect()];
    let rope = Rope::new(&positions, &RopeFrequencies::new(8, 1e4), Kind::Float, Device::Cpu);
    let x = random(&[2, 9, 3, 12]);
    let y = rope.apply(&x.transpose(1, 2)).unwrap();
    (&y * &y.detach().sin()).sum(Kind::Float).backward();
    let (gate, up) = (random(&[2, 5, 7]), random(&[2, 5, 7]));
    let product = gated(Activation::Silu, &gate, &up).unwrap();
    (&product * &product.detach().cos()).sum(Kind::Float).backward();
    let plain = gated(Activation::Gelu, &gate, &up).unwrap();
    let own = [y.detach(), x.grad(), product.detach(), gate.grad(), up.grad(), plain.detach()];
    norm().into_iter().chain(own).collect()
}

#[test]
fn blocks_compute_the_same_with_kernels() {
    let both = || {
        tch::manual_seed(7);
        (linears(), others())
    };
    let (linears, others) = both();
    assert_eq!(Kernels::calls_of_process(), [0; KERNELS.len()]);
    emulator::kernels().clone().serve_cpu();
    let (fused_linears, fused_others) = both();
    let calls = KERNELS.iter().zip(Kernels::calls_of_process());
    let unused: Vec<_> = calls.filter(|(_, calls)| *calls == 0).map(|(kernel, _)| *kernel).collect();
    assert!(unused.is_empty(), "{unused:?}");
    assert_eq!((linears.len(), others.len()), (fused_linears.len(), fused_others.len()));
    for (index, (plain, fused)) in linears.iter().zip(&fused_linears).enumerate() {
        assert_eq!(plain, fused, "tensor {index} of the linears");
    }
    for (index, (plain, fused)) in others.iter().zip(&fused_others).enumerate() {
        assert!(plain.allclose(fused, 1e-5, 1e-6, false), "tensor {index}: {plain} and {fused}");
    }
}
