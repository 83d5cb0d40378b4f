//! Activation recomputation does not change the result.

use crate::distributed::{ddp, same};
use crate::layout::{Layout, four_layers, mixed, pipeline};
use crate::setting::{ONE, Samples, adapters, bits, gradients, lora, microbatches, on_mesh, train, trainer, within_limit, without_image};
use neva_engine::comm::{Mesh, Traffic};
use neva_layout::{Hidden, KeysValues, recompute_bytes};
use neva_schemas::{Finetune, MegatronStrategy, ParallelSizes, Peft, RecomputeGranularity, RecomputeMethod, RecomputeModule};

const STEPS: u64 = 6;

/// Returns the settings of recomputation, from all layers to modules of each.
pub(crate) fn recompute_settings() -> [MegatronStrategy; 5] {
    let full = |recompute_method, recompute_num_layers| MegatronStrategy {
        recompute_granularity: Some(RecomputeGranularity::Full),
        recompute_method,
        recompute_num_layers,
        ..MegatronStrategy::default()
    };
    let selective = |recompute_modules| MegatronStrategy {
        recompute_granularity: Some(RecomputeGranularity::Selective),
        recompute_modules,
        ..MegatronStrategy::default()
    };
    [
        full(None, None),
        full(Some(RecomputeMethod::Uniform), Some(3)),
        full(Some(RecomputeMethod::Block), Some(1)),
        selective(None),
        selective(Some(vec![RecomputeModule::Mlp, RecomputeModule::CoreAttn])),
    ]
}

/// Returns the run with the recomputation of another strategy.
pub(crate) fn with_recompute(finetune: &Finetune, way: &MegatronStrategy) -> Finetune {
    let mut finetune = finetune.clone();
    finetune.trainer.strategy = MegatronStrategy {
        recompute_granularity: way.recompute_granularity,
        recompute_method: way.recompute_method,
        recompute_num_layers: way.recompute_num_layers,
        recompute_modules: way.recompute_modules.clone(),
        ..finetune.trainer.strategy
    };
    finetune
}

/// Checks that results are bitwise equal with every setting of recomputation.
#[track_caller]
fn check(name: &str, layouts: &[Layout], change: impl FnOnce(&mut Finetune)) {
    let mut finetune = four_layers();
    change(&mut finetune);
    let samples = Samples::edited(&finetune, mixed);
    for layout in layouts {
        let finetune = layout.of(&finetune);
        let expected = train(&finetune, &samples, layout.sizes, STEPS);
        for way in recompute_settings() {
            let got = train(&with_recompute(&finetune, &way), &samples, layout.sizes, STEPS);
            let what = (way.recompute_granularity, way.recompute_method, &way.recompute_modules);
            assert_eq!(bits(&got.losses), bits(&expected.losses), "{name}, {layout:?}, {what:?}");
            same(&got.weights, &expected.weights);
        }
    }
}

fn all() -> [Layout; 4] {
    let tp2 = Layout::plain(ONE).over(2, 1);
    [
        Layout::plain(ONE),
        tp2.over(2, 2).sequence_parallel().distributed(),
        pipeline(2).chunks(2),
        tp2.context(2).sequence_parallel(),
    ]
}

#[test]
fn whole_model_gives_the_same_bits() {
    within_limit(|| check("full", &all(), |_| {}));
}

#[test]
fn adapters_give_the_same_bits() {
    within_limit(|| {
        // In text-only microbatches the first layer's input needs no gradient.
        check("LoRA", &all(), lora);
        check("LoRA on every linear", &all()[1..2], |finetune| {
            adapters(finetune, &["q_proj", "v_proj", "o_proj", "up_proj", "down_proj", "linear_1", "fc2"]);
        });
    });
}

#[test]
fn frozen_parts_give_the_same_bits() {
    within_limit(|| {
        check("frozen vision encoder", &all()[..2], |finetune| {
            finetune.model.as_llava_mut().unwrap().freeze_vision_model = true;
        });
        // The language model is recomputed only for the gradients of the images.
        check("frozen language model", &all()[..3], |finetune| {
            finetune.model.as_llava_mut().unwrap().freeze_language_model = true;
        });
    });
}

#[test]
fn a_tensor_parallel_vision_encoder_gives_the_same_bits() {
    within_limit(|| {
        check("cut", &all()[1..2], |finetune| {
            finetune.trainer.strategy.vision_placement = neva_schemas::VisionPlacement::Cut;
        });
    });
}

/// Without a grad-requiring input, a naive recomputation would never run, and the weights would silently get no gradient.
#[test]
fn text_only_batches_train_adapters_in_every_layer() {
    within_limit(|| {
        let mut finetune = four_layers();
        adapters(&mut finetune, &["linear_qkv", "linear_proj", "linear_fc1", "linear_fc2"]);
        let Some(Peft::LoRA(lora)) = &mut finetune.peft else {
            unreachable!("just set")
        };
        (
            lora.freeze_vision_model,
            finetune.model.as_llava_mut().unwrap().freeze_vision_projection,
        ) = (true, true);
        let samples = Samples::edited(&finetune, |_, sample| without_image(sample));
        for way in recompute_settings() {
            let finetune = with_recompute(&finetune, &way);
            on_mesh(ONE, |mesh| {
                let mut trainer = trainer(&finetune, mesh.clone());
                trainer.accumulate(&microbatches(&finetune, &samples, &mesh, 0)).unwrap();
                let gradients = gradients(&trainer);
                let trained: Vec<_> = trainer.parameters().trainable().map(|parameter| &parameter.spec.name).collect();
                assert_eq!(gradients.keys().collect::<Vec<_>>().len(), trained.len(), "{way:?}");
                // The gradient of A is zero at first, because B is.
                let b = gradients.iter().filter(|(name, _)| name.contains("lora_B"));
                for layer in 0..4 {
                    let of_layer = b.clone().filter(|(name, _)| name.contains(&format!("layers.{layer}.")));
                    let touched = of_layer.filter(|(_, grad)| grad.abs().max().double_value(&[]) > 0.0);
                    assert!(touched.count() >= 4, "layer {layer} gets no gradient: {way:?}");
                }
            });
        }
    });
}

/// Returns the bytes that each rank sends in a group in the passes of one step.
/// With it, their hidden states and the number of labels.
fn sent(finetune: &Finetune, samples: &Samples, sizes: ParallelSizes, group: &str) -> Vec<(u64, Hidden, usize)> {
    let bytes = |mesh: &Mesh| {
        let sum = |traffic: &Traffic| traffic.values().map(|sent| sent.bytes).sum::<u64>();
        mesh.traffic().get(group).map_or(0, sum)
    };
    on_mesh(sizes, |mesh| {
        let mut trainer = trainer(finetune, mesh.clone());
        let mut batches = microbatches(finetune, samples, &mesh, 0);
        batches.truncate(1);
        let size = batches[0].batch.input_ids_bs.size();
        let before = bytes(&mesh);
        trainer.accumulate(&batches).unwrap();
        let hidden = Hidden {
            b: size[0] as usize,
            s: size[1] as usize,
            h: finetune.model.as_llava().unwrap().text_config.hidden_size,
            bytes: 4,
        };
        (bytes(&mesh) - before, hidden, batches[0].labels as usize)
    })
}

#[test]
fn traffic_matches_the_formulas() {
    within_limit(|| {
        let mut finetune = four_layers();
        ddp(&mut finetune, false, false);
        finetune.trainer.strategy.vision_placement = neva_schemas::VisionPlacement::Duplicated;
        let samples = Samples::of(&finetune);
        let [full, _, block, core_attn, both] = recompute_settings();
        let (tensor, context) = (Layout::plain(ONE).over(2, 1), Layout::plain(ONE).context(2));
        for layout in [tensor, tensor.sequence_parallel()] {
            let finetune = layout.of(&finetune);
            let expected = sent(&finetune, &samples, layout.sizes, "tensor");
            // An MLP all-reduces its hidden states once, a layer twice; those of the last layer are of labelled positions.
            for (way, [all, last]) in [(&full, [6, 2]), (&block, [2, 0]), (&core_attn, [0, 0]), (&both, [3, 1])] {
                let got = sent(&with_recompute(&finetune, way), &samples, layout.sizes, "tensor");
                let blocks = if layout.sequence_parallel { [all + last, 0] } else { [all, last] };
                for ((got, hidden, labels), (expected, ..)) in got.iter().zip(&expected) {
                    let more = recompute_bytes(2, blocks, *hidden, *labels);
                    assert_eq!(got - expected, more, "{layout:?}, {blocks:?} blocks");
                }
            }
        }
        let finetune = context.of(&finetune);
        let text = &finetune.model.as_llava().unwrap().text_config;
        let expected = sent(&finetune, &samples, context.sizes, "context");
        for way in [&full, &core_attn] {
            let got = sent(&with_recompute(&finetune, way), &samples, context.sizes, "context");
            for ((got, hidden, _), (expected, ..)) in got.iter().zip(&expected) {
                let layer = KeysValues {
                    ranks: 2,
                    b: hidden.b,
                    s: 2 * hidden.s,
                    heads: text.num_key_value_heads,
                    head_dim: text.head_dim(),
                    bytes: 4,
                };
                assert_eq!(got - expected, 4 * layer.forward());
            }
        }
    });
}
