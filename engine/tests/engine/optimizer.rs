//! Effects of one optimizer step on each parameter.

use crate::setting::{
    ONE, Samples, close, difference, gradients, microbatches, on_mesh, small, trainer, weights, within_limit, without_image, without_labels,
};
use neva_engine::comm::{Axis, Mesh};
use neva_engine::trainer::Trainer;
use neva_schemas::{Finetune, ParallelSizes, Precision};
use std::collections::BTreeMap;
use tch::{Kind, Tensor};

#[test]
fn clipping_matches_torch() {
    within_limit(|| {
        let finetune = small();
        let samples = Samples::of(&finetune);
        for (factor, sizes) in [
            (0.1, ONE),
            (0.999, ONE),
            (1.001, ONE),
            (0.0, ONE),
            (0.1, ParallelSizes { tp: 2, dp: 2, ..ONE }),
        ] {
            on_mesh(sizes, |mesh| {
                let mut finetune = finetune.clone();
                let batches = microbatches(&finetune, &samples, &mesh, 0);
                let mut plain = trainer(&finetune, mesh.clone());
                let norm = plain.accumulate(&batches).unwrap().grad_norm.unwrap();
                let before = gradients(&plain);
                if sizes == ONE {
                    let squares: f64 = before
                        .values()
                        .map(|gradient| gradient.to_kind(Kind::Double).square().sum(Kind::Double).double_value(&[]))
                        .sum();
                    close("norm", &[norm], &[squares.sqrt()], 1e-6);
                }
                *finetune.optim.clip_grad_mut() = factor * norm;
                let mut clipped = trainer(&finetune, mesh);
                let stepped = clipped.step(&batches, |_| 1e-3, 0).unwrap();
                assert_eq!(stepped.grad_norm, Some(norm), "the reported norm is the one before clipping");
                // torch.nn.utils.clip_grad_norm_: clamp(max_norm / (norm + 1e-6), max=1); no clipping at 0.
                let coefficient = factor * norm / (norm + 1e-6);
                let coefficient = if factor == 0.0 || coefficient > 1.0 { 1.0 } else { coefficient };
                for (name, gradient) in gradients(&clipped) {
                    assert!(gradient.equal(&(&before[&name] * coefficient)), "{factor}: gradient of {name}");
                }
            });
        }
    });
}

/// Step 0 has images everywhere, step 1 nowhere, step 2 in the first data-parallel rank's samples only,
/// step 3 in the second's.
fn some_images(index: usize, sample: &mut neva_data::Sample) {
    let (step, within) = (index / 8, index % 8);
    let first = matches!(within, 0 | 1 | 4 | 5);
    if step == 1 || (step == 2 && !first) || (step == 3 && first) {
        without_image(sample);
    }
}

/// Weight, moments and step count of each trainable parameter.
fn state(trainer: &Trainer) -> BTreeMap<String, [Tensor; 4]> {
    let weights = weights(trainer);
    trainer
        .optimizer()
        .shards()
        .map(|shard| {
            let name = &shard.spec.name;
            (
                name.clone(),
                [
                    weights[name].copy(),
                    shard.moments[0].1.copy(),
                    shard.moments[1].1.copy(),
                    shard.step.copy(),
                ],
            )
        })
        .collect()
}

fn needs_pixels(name: &str) -> bool {
    name.contains("vision_tower") || name.contains("projector")
}

#[test]
fn a_parameter_without_a_gradient_is_not_changed() {
    within_limit(|| {
        let mut finetune = small();
        *finetune.optim.weight_decay_mut() = 0.5;
        let samples = Samples::edited(&finetune, some_images);
        for sizes in [ONE, ParallelSizes { dp: 2, ..ONE }] {
            on_mesh(sizes, |mesh| {
                let mut trainer = trainer(&finetune, mesh.clone());
                let mut counts = [0.0, 0.0];
                for step in 0..4 {
                    let before = state(&trainer);
                    let batches = microbatches(&finetune, &samples, &mesh, step);
                    let report = trainer.step(&batches, |_| 1e-2, step).unwrap();
                    let rested = step == 1;
                    assert_eq!(report.text_only_microbatches, [0, 4, 2, 2][step as usize]);
                    counts[0] += 1.0;
                    counts[1] += f64::from(u8::from(!rested));
                    for (name, after) in state(&trainer) {
                        let vision = needs_pixels(&name);
                        assert_eq!(
                            after[3].double_value(&[0]),
                            counts[usize::from(vision)],
                            "{sizes:?}, step {step}: count of {name}"
                        );
                        let same = after.iter().zip(&before[&name]).all(|(after, before)| after.equal(before));
                        assert_eq!(same, vision && rested, "{sizes:?}, step {step}: {name}");
                    }
                }
            });
        }
    });
}

#[test]
fn a_step_without_labels_changes_nothing() {
    within_limit(|| {
        let finetune = small();
        let samples = Samples::edited(&finetune, |_, sample| without_labels(sample));
        for sizes in [ONE, ParallelSizes { tp: 2, dp: 2, ..ONE }] {
            on_mesh(sizes, |mesh| {
                let mut trainer = trainer(&finetune, mesh.clone());
                let before = state(&trainer);
                let report = trainer.step(&microbatches(&finetune, &samples, &mesh, 0), |_| 1e-2, 0).unwrap();
                assert_eq!(
                    (report.loss, report.grad_norm, report.labels, report.zero_label_samples),
                    (None, None, 0, 8)
                );
                assert!(
                    state(&trainer)
                        .iter()
                        .all(|(name, after)| after.iter().zip(&before[name]).all(|(after, before)| after.equal(before)))
                );
            });
        }
    });
}

#[test]
fn vectors_and_biases_do_not_decay() {
    within_limit(|| {
        let (lr, decay) = (1e-2, 0.5);
        let stepped = |weight_decay: f64| {
            let mut finetune = small();
            *finetune.optim.weight_decay_mut() = weight_decay;
            let samples = Samples::of(&finetune);
            let mut trainer = trainer(&finetune, Mesh::single());
            let before = weights(&trainer);
            trainer
                .step(&microbatches(&finetune, &samples, &Mesh::single(), 0), |_| lr, 0)
                .unwrap();
            (before, weights(&trainer), trainer)
        };
        let (before, without, trainer) = stepped(0.0);
        let (_, with, _) = stepped(decay);
        let mut decayed = 0;
        for parameter in trainer.parameters().trainable() {
            let name = &parameter.spec.name;
            if before[name].dim() > 1 && !name.ends_with(".bias") {
                // Decoupled: w - lr (update + decay w).
                let expected = &without[name] - &before[name] * (lr * decay);
                let off = difference(&with[name], &expected);
                assert!(off <= 1e-6, "{name} is off by {off:e}");
                assert!(!with[name].equal(&without[name]), "{name} does not decay");
                decayed += 1;
            } else {
                assert!(with[name].equal(&without[name]), "{name} decays");
            }
        }
        assert!(decayed > 10);
    });
}

#[test]
fn master_weights_accumulate_small_updates() {
    within_limit(|| {
        let mut finetune: Finetune = small();
        finetune.trainer.mixed_precision_mut().precision = Precision::Bf16Mixed;
        let samples = Samples::of(&finetune);
        let mut trainer = trainer(&finetune, Mesh::single());
        let batches = microbatches(&finetune, &samples, &Mesh::single(), 0);
        // Weights of norms are 1; bf16's next values are 1 / 256 below and 1 / 128 above.
        let norm = "model.language_model.norm.weight";
        let weight = |trainer: &Trainer| trainer.parameters().get(norm).unwrap().tensor.detach().to_kind(Kind::Float);
        let master = |trainer: &Trainer| {
            trainer
                .optimizer()
                .shards()
                .find(|shard| shard.spec.name == norm)
                .unwrap()
                .master
                .values()
                .unwrap()
                .copy()
        };
        let start = weight(&trainer);
        for step in 0..40 {
            trainer.step(&batches, |_| 2e-4, step).unwrap();
            if step == 0 {
                assert!(weight(&trainer).equal(&start), "an update of 2e-4 is lost in bf16");
                assert!(!master(&trainer).equal(&start), "but not in the master weight");
            }
            assert!(
                weight(&trainer).equal(&master(&trainer).to_kind(Kind::BFloat16).to_kind(Kind::Float)),
                "step {step}"
            );
        }
        assert!(
            (weight(&trainer) - start).abs().max().double_value(&[]) >= 1.0 / 256.0,
            "40 updates do not add up"
        );
    });
}

#[test]
fn gradients_do_not_depend_on_the_rank_of_an_image() {
    within_limit(|| {
        let finetune = small();
        let samples = Samples::edited(&finetune, some_images);
        let of = |sizes| {
            on_mesh(sizes, |mesh: Mesh| {
                assert_eq!(mesh.axis(Axis::Data).size() as u32, sizes.dp);
                let mut trainer = trainer(&finetune, mesh.clone());
                trainer.accumulate(&microbatches(&finetune, &samples, &mesh, 2)).unwrap();
                gradients(&trainer)
            })
        };
        let expected = of(ONE).remove(0);
        for got in of(ParallelSizes { dp: 2, ..ONE }) {
            for (name, expected) in expected.iter().filter(|(name, _)| !name.ends_with("k_proj.bias")) {
                let off = difference(&got[name], expected);
                assert!(off <= 1e-4, "gradient of {name} is off by {off:e}");
            }
        }
    });
}
