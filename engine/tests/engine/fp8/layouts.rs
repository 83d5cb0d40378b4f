//! Scales and losses in other layouts than one rank's.

use super::{RECIPES, in_fp8, small_fp8};
use crate::layout::{Layout, four_layers, mixed, pipeline};
use crate::recompute::{recompute_settings, with_recompute};
use crate::setting::{ONE, Samples, bits, close, gradients, lora, microbatches, on_mesh, train, trainer, within_limit};
use neva_engine::fp8::LinearState;
use neva_engine::trainer::Trainer;
use neva_schemas::{Finetune, Fp8AmaxComputeAlgo, Fp8Recipe, Precision};
use std::collections::BTreeMap;
use tch::{Kind, Tensor};

/// Scales and amax histories `[3, ..]` by linear.
pub(super) type States = BTreeMap<String, [Vec<f64>; 2]>;

fn values(tensor: &Tensor) -> Vec<f64> {
    Vec::try_from(tensor.to_kind(Kind::Double).contiguous().view([-1])).unwrap()
}

/// Returns the state of each linear of a rank.
pub(super) fn states(trainer: &Trainer) -> States {
    let own = |state: LinearState<'_>| (state.linear.to_owned(), [values(&state.scale), values(&state.amax_history)]);
    trainer.fp8().unwrap().states().map(own).collect()
}

/// Scales gradients as later steps do. With the first scale of 1 the small ones would be subnormal, or 0.
fn scale_gradients(trainer: &Trainer) {
    let fp8 = trainer.fp8().unwrap();
    let scale = Tensor::from_slice(&[1f32, 1.0, 4096.0]);
    for state in fp8.states() {
        fp8.restore(state.linear, &scale, &state.amax_history.copy()).unwrap();
    }
}

/// Returns the bits of the losses of `steps` steps, and the states of all linears after them. Ranks that hold the same linear must
/// have the same.
fn trained_states(finetune: &Finetune, samples: &Samples, layout: Layout, steps: u64) -> (Vec<u64>, States) {
    let finetune = &layout.of(finetune);
    let ranks = on_mesh(layout.sizes, |mesh| {
        let mut trainer = trainer(finetune, mesh.clone());
        scale_gradients(&trainer);
        let step = |step| {
            let batches = microbatches(finetune, samples, &mesh, step);
            trainer.step(&batches, |peak| peak, step).unwrap().loss.unwrap()
        };
        let losses: Vec<f64> = (0..steps).map(step).collect();
        (bits(&losses), states(&trainer))
    });
    let losses = ranks[0].0.clone();
    let mut all = States::new();
    for (linear, state) in ranks.into_iter().flat_map(|(_, states)| states) {
        if let Some(known) = all.insert(linear.clone(), state.clone()) {
            assert_eq!(known, state, "ranks hold different scales of `{linear}`");
        }
    }
    (losses, all)
}

fn layouts() -> [Layout; 7] {
    let tp2 = Layout::plain(ONE).over(2, 1);
    [
        tp2,
        tp2.sequence_parallel(),
        pipeline(2),
        pipeline(2).chunks(2),
        Layout::plain(ONE).context(2),
        Layout::plain(ONE).over(1, 2),
        tp2.over(2, 2).sequence_parallel().distributed(),
    ]
}

/// Returns a run with four layers in FP8.
fn four_in_fp8(recipe: Fp8Recipe) -> Finetune {
    let mut finetune = four_layers();
    *finetune.optim.lr_mut() = 2e-4;
    in_fp8(&mut finetune, |plugin| {
        plugin.fp8_recipe = recipe;
        if recipe == Fp8Recipe::Delayed {
            (plugin.fp8_amax_history_len, plugin.fp8_amax_compute_algo) = (16, Fp8AmaxComputeAlgo::Max);
        }
    });
    finetune
}

/// Greatest relative differences of the amaxes of inputs, weights and gradients of a layout from one rank's, after the first
/// step. They are the largest magnitudes of the whole tensors in every layout.
///
/// Pipelines and data parallelism compute the same sums, so they have the same bits. Tensor and context parallelism add
/// partial sums in another order. With fp32 sums that moves no amax by more than 1e-6: one bf16 ulp is 2^-8 to 2^-7. With bf16
/// sums, as in Megatron, each sum moves by an ulp, and the value that is quantised next by a step of E4M3 (2^-4 to 2^-3) or
/// E5M2 (2^-3 to 2^-2), so that the amaxes of later layers differ by more than an ulp. Measured: at most 0.026 (inputs) and
/// 0.051 (gradients); the input of the first layer, which no such sum precedes, has the same bits.
fn bounds(layout: Layout, precision: Precision, linear: &str) -> [f64; 3] {
    let same_sums = layout.sizes.tp == 1 && layout.sizes.cp == 1;
    match precision {
        _ if same_sums => [0.0; 3],
        Precision::Fp32 => [1e-5, 0.0, 1e-5],
        _ if linear.ends_with("layers.0.self_attn.q_proj") => [0.0, 0.0, 1.0 / 16.0],
        _ => [1.0 / 32.0, 0.0, 1.0 / 16.0],
    }
}

#[test]
fn amaxes_and_scales_are_those_of_one_rank() {
    within_limit(|| {
        // Runs have bf16 sums; fp32 ones tell what is a matter of rounding.
        for precision in [Precision::Fp32, Precision::Bf16Mixed] {
            let mut finetune = four_in_fp8(Fp8Recipe::Delayed);
            finetune.trainer.mixed_precision_mut().precision = precision;
            let samples = Samples::edited(&finetune, mixed);
            let (_, expected) = trained_states(&finetune, &samples, Layout::plain(ONE), 1);
            assert_eq!(expected.len(), 4 * 7);
            let seen = expected.values().filter(|[_, history]| history[0] > 0.0);
            assert_eq!(seen.count(), 4 * 4, "the first linear of each input counts its amax");
            for layout in layouts() {
                let (_, got) = trained_states(&finetune, &samples, layout, 1);
                assert_eq!(got.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "{layout:?}");
                for (linear, [scale, history]) in &expected {
                    let [own_scale, own_history] = &got[linear];
                    let len = history.len() / 3;
                    for (role, off) in bounds(layout, precision, linear).into_iter().enumerate() {
                        let what = format!("{precision:?}, {layout:?}, {linear}, {}", ["input", "weight", "gradient"][role]);
                        let of_role = |history: &[f64]| history[role * len..(role + 1) * len].to_vec();
                        close(&format!("{what}: amax"), &of_role(own_history), &of_role(history), off);
                        let scales = [own_scale, scale].map(|scales| &scales[role..=role]);
                        close(&format!("{what}: scale"), scales[0], scales[1], 1.15 * off);
                    }
                }
            }
        }
    });
}

#[test]
fn losses_are_those_of_one_rank() {
    let [tp, tp_sp, pp, vpp, cp, dp, all] = layouts();
    // `make soak` trains with every recipe in every layout. Only delayed scaling reduces over data- and context-parallel ranks.
    let soaks = std::env::var_os("NEVA_SOAK_FP8").is_some();
    within_limit(move || {
        for recipe in RECIPES {
            let every = soaks || recipe == Fp8Recipe::Delayed;
            for adapters in [false, true] {
                let mut finetune = four_in_fp8(recipe);
                if adapters {
                    lora(&mut finetune);
                }
                let samples = Samples::edited(&finetune, mixed);
                let expected = train(&finetune, &samples, ONE, 20);
                let layouts = match (every, adapters) {
                    (true, false) => vec![tp, tp_sp, pp, vpp, cp, dp, all],
                    (true, true) => vec![tp_sp, pp, vpp],
                    (false, false) => vec![tp_sp, vpp, cp],
                    (false, true) => vec![tp_sp],
                };
                for layout in layouts {
                    let got = train(&layout.of(&finetune), &samples, layout.sizes, 20);
                    close(
                        &format!("{recipe:?}, adapters: {adapters}, {layout:?}"),
                        &got.losses,
                        &expected.losses,
                        1e-3,
                    );
                }
            }
        }
    });
}

#[test]
fn a_recomputed_pass_has_the_same_scales_and_counts_nothing() {
    within_limit(|| {
        for recipe in RECIPES {
            let finetune = four_in_fp8(recipe);
            let samples = Samples::edited(&finetune, mixed);
            for layout in [Layout::plain(ONE), pipeline(2).chunks(2)] {
                // The first step has no scales yet, the second those of one step, the third those of a history.
                let (expected, expected_states) = trained_states(&finetune, &samples, layout, 3);
                let ways = recompute_settings();
                // A pipeline recomputes as one rank does.
                let ways = if layout.sizes == ONE { &ways[..] } else { &ways[..1] };
                for way in ways {
                    let (got, states) = trained_states(&with_recompute(&finetune, way), &samples, layout, 3);
                    assert_eq!(got, expected, "{recipe:?}, {layout:?}, {way:?}");
                    assert!(states == expected_states, "{recipe:?}, {layout:?}, {way:?}");
                }
            }
        }
    });
}

/// A frozen linear has no gradient of its weight; its adapters and the layers below get theirs.
#[test]
fn adapters_below_frozen_linears_get_gradients() {
    within_limit(|| {
        let mut finetune = small_fp8(|plugin| plugin.fp8_recipe = Fp8Recipe::Tensorwise);
        lora(&mut finetune);
        let samples = Samples::of(&finetune);
        on_mesh(ONE, |mesh| {
            let mut trainer = trainer(&finetune, mesh.clone());
            trainer.accumulate(&microbatches(&finetune, &samples, &mesh, 0)).unwrap();
            let gradients = gradients(&trainer);
            let touched = |name: &str| {
                let own = gradients.iter().filter(|(key, _)| key.contains(name));
                own.filter(|(_, grad)| grad.abs().max().double_value(&[]) > 0.0).count()
            };
            let trained = trainer.parameters().trainable().filter(|own| own.spec.name.contains("lora_B"));
            assert_eq!(touched("lora_B"), trained.count());
            assert!(touched("projector") > 0);
        });
    });
}
