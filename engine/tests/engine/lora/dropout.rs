//! Dropout acts in training only, and depends on the sample, not on how it is computed.

use super::adapted;
use crate::layout::{Layout, mixed, pipeline};
use crate::recompute::{recompute_settings, with_recompute};
use crate::setting::{
    ONE, Samples, adapters, bits, close, close_tensors, gradients, microbatches, mock, on_mesh, run, small, train, trainer, validate,
    validations, within_limit,
};
use neva_schemas::{DropoutPosition, Finetune};
use tch::{Kind, Tensor};

fn dropping(probability: f64) -> Finetune {
    adapted(|lora| lora.dropout = probability)
}

#[test]
fn recomputation_drops_the_same_values() {
    within_limit(|| {
        let finetune = dropping(0.3);
        let samples = Samples::edited(&finetune, mixed);
        for layout in [Layout::plain(ONE).over(2, 1).sequence_parallel(), pipeline(2).chunks(2)] {
            let finetune = layout.of(&finetune);
            let expected = train(&finetune, &samples, layout.sizes, 4);
            for way in recompute_settings() {
                let got = train(&with_recompute(&finetune, &way), &samples, layout.sizes, 4);
                assert_eq!(bits(&got.losses), bits(&expected.losses), "{layout:?}, {way:?}");
            }
        }
    });
}

#[test]
fn packing_and_microbatches_drop_the_same_values() {
    within_limit(|| {
        let mut finetune = dropping(0.3);
        mock(&mut finetune).seq_length = 24;
        let samples = Samples::edited(&finetune, mixed);
        let expected = train(&finetune, &samples, ONE, 4);
        for (each, packed) in [(4, false), (4, true), (8, true)] {
            let mut finetune = finetune.clone();
            let data = mock(&mut finetune);
            (data.micro_batch_size, data.use_packed_sequence) = (each, packed);
            data.seq_length = if packed { 24 * each as usize } else { 24 };
            let got = train(&finetune, &samples, ONE, 4);
            close(&format!("{each} samples, packed {packed}"), &got.losses, &expected.losses, 1e-5);
            close_tensors("weights", &got.weights, &expected.weights, 1e-4);
        }
    });
}

/// Each step has its own masks: the same samples at another place of the stream have other losses.
#[test]
fn masks_depend_on_seed_and_place() {
    within_limit(|| {
        let losses = |probability: f64, seed: u64, every: usize| {
            let mut finetune = dropping(probability);
            // B starts at 0, so that the first step does not depend on A's input.
            finetune.peft.as_mut().unwrap().lora_mut().lora_b_init = neva_schemas::LoraInit::Normal;
            finetune.trainer.seed = seed;
            *finetune.optim.lr_mut() = 0.0;
            let first = neva_data::Dataset::get(&Samples::of(&finetune), 0).unwrap();
            let samples = Samples::edited(&finetune, move |index, sample| {
                if index.is_multiple_of(every) {
                    *sample = first.clone();
                }
            });
            train(&finetune, &samples, ONE, 2).losses
        };
        let [without, with] = [losses(0.0, 1, 1), losses(0.5, 1, 1)];
        assert_eq!(without[0], without[1]);
        assert!(
            (with[0] - with[1]).abs() > 1e-6 && (with[0] - without[0]).abs() > 1e-6,
            "{with:?} {without:?}"
        );
        assert_eq!(bits(&losses(0.5, 1, 1)), bits(&with));
    });
}

#[test]
fn validation_drops_nothing() {
    within_limit(|| {
        let val_loss = |probability: f64| {
            let mut finetune = small();
            adapters(&mut finetune, &["linear_qkv", "linear_fc2", "linear_1"]);
            let lora = finetune.peft.as_mut().unwrap().lora_mut();
            (lora.dropout, lora.lora_b_init) = (probability, neva_schemas::LoraInit::Normal);
            *finetune.optim.lr_mut() = 0.0;
            finetune.trainer.max_steps = Some(1);
            validate(&mut finetune, 1, 8);
            let folder = tempfile::tempdir().unwrap();
            let report = run(&finetune, folder.path()).unwrap();
            (report.losses[0], validations(folder.path())[0]["val_loss"].as_f64().unwrap())
        };
        let (with, without) = (val_loss(0.5), val_loss(0.0));
        assert_eq!(with.1.to_bits(), without.1.to_bits());
        assert!((with.0 - without.0).abs() > 1e-6, "training has no dropout");
    });
}

/// Over many steps the mean gradient with dropout is that without, for an adapter whose output is linear in its input.
#[test]
fn kept_values_are_scaled() {
    within_limit(|| {
        for position in [DropoutPosition::Pre, DropoutPosition::Post] {
            let gradient = |probability: f64, steps: u64| -> Tensor {
                let mut finetune = small();
                adapters(&mut finetune, &["linear_fc2"]);
                let lora = finetune.peft.as_mut().unwrap().lora_mut();
                (lora.dropout, lora.dropout_position) = (probability, position);
                finetune.model.as_llava_mut().unwrap().freeze_vision_projection = true;
                lora.freeze_vision_model = true;
                let samples = Samples::of(&finetune);
                let means = on_mesh(ONE, |mesh| {
                    let mut trainer = trainer(&finetune, mesh.clone());
                    let mut sum: Option<Tensor> = None;
                    for step in 0..steps {
                        // B is 0, so its gradient alone is not 0.
                        trainer.accumulate(&microbatches(&finetune, &samples, &mesh, step)).unwrap();
                        let all = gradients(&trainer);
                        let own = &all["model.language_model.layers.1.mlp.down_proj.lora_B.weight"];
                        sum = Some(sum.map_or_else(|| own.copy(), |sum| sum + own));
                    }
                    sum.unwrap() / steps as f64
                });
                means.into_iter().next().unwrap()
            };
            let (expected, got) = (gradient(0.0, 40), gradient(0.4, 40));
            // The share of the expected gradient in the other. Unscaled values would make it 0.6.
            let share = ((&got * &expected).sum(Kind::Float) / (&expected * &expected).sum(Kind::Float)).double_value(&[]);
            assert!((share - 1.0).abs() < 0.12, "{position:?}: {share}");
            assert!(!got.equal(&expected), "{position:?}: nothing was dropped");
        }
    });
}
