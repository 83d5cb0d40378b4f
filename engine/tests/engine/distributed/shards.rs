//! Shards of the distributed optimizer: their split among ranks, and replicated parameters.

use super::{DP2, DP4, TP2_DP2, ddp, deep, same};
use crate::layout::mixed;
use crate::setting::{ONE, Samples, microbatches, on_mesh, precision, trainer, weights, within_limit, without_labels};
use neva_engine::comm::Axis;
use neva_layout::Cut;
use neva_schemas::{Precision, VisionPlacement};
use std::collections::BTreeMap;
use tch::Kind;

#[test]
fn state_memory_is_split_evenly() {
    within_limit(|| {
        for kind in [Precision::Fp32, Precision::Bf16Mixed] {
            let mut finetune = deep();
            finetune.trainer.strategy.ddp.bucket_size = 100_000;
            ddp(&mut finetune, true, true);
            precision(&mut finetune, kind);
            for sizes in [DP2, DP4] {
                let counts = on_mesh(sizes, |mesh| {
                    let trainer = trainer(&finetune, mesh);
                    let trained: usize = trainer.parameters().trainable().map(|parameter| parameter.tensor.numel()).sum();
                    let shards = trainer.optimizer().shards().map(|shard| {
                        let master = shard.master.values().unwrap();
                        let master = [("", &master)];
                        let values = shard.moments.iter().chain(&master).map(|(_, tensor)| {
                            assert_eq!((tensor.kind(), tensor.numel()), (Kind::Float, shard.range.len()));
                            tensor.numel()
                        });
                        values.sum::<usize>()
                    });
                    (trained, shards.sum::<usize>())
                });
                let trained = counts[0].0;
                assert_eq!(
                    counts.iter().map(|(_, count)| count).sum::<usize>(),
                    3 * trained,
                    "each value is on one rank"
                );
                let ranks = counts.len();
                for (_, count) in counts {
                    let (count, even) = (count as f64, 3.0 * trained as f64 / ranks as f64);
                    assert!((count / even - 1.0).abs() < 0.02, "{count} values instead of {even}");
                }
            }
        }
    });
}

#[test]
fn replicated_parameters_stay_bitwise_equal() {
    within_limit(|| {
        check_copies(VisionPlacement::Duplicated);
        check_copies(VisionPlacement::Cut);
    });
}

fn check_copies(placement: VisionPlacement) {
    let mut finetune = deep();
    finetune.trainer.strategy.vision_placement = placement;
    ddp(&mut finetune, true, true);
    finetune.trainer.strategy.tensor_model_parallel_size = 2;
    finetune.trainer.strategy.sequence_parallel = true;
    let samples = Samples::edited(&finetune, mixed);
    on_mesh(TP2_DP2, |mesh| {
        let mut trainer = trainer(&finetune, mesh.clone());
        // Tensor-parallel rank 1 computes with a slightly different projector, so the gradients differ.
        if mesh.axis(Axis::Tensor).rank() == 1 {
            let name = "model.multi_modal_projector.linear_2.bias";
            let bias = &trainer.parameters().get(name).unwrap().tensor;
            let _ = tch::no_grad(|| bias.shallow_clone().g_add_scalar_(1e-2));
        }
        trainer.accumulate(&microbatches(&finetune, &samples, &mesh, 0)).unwrap();
        for (parameter, gradient) in trainer.gradients() {
            if parameter.spec.part == neva_layout::Part::Projection && parameter.spec.cut == Cut::Replicate {
                let shard = trainer.optimizer().shards().find(|shard| shard.spec.name == parameter.spec.name);
                let Some(range) = shard.map(|shard| shard.range) else { continue };
                let own = gradient
                    .unwrap()
                    .view([-1])
                    .narrow(0, range.start as i64, range.len() as i64)
                    .contiguous();
                let both = mesh.axis(Axis::Tensor).all_gather(&own).unwrap();
                assert!(both[0].equal(&both[1]), "{}", parameter.spec.name);
            }
        }
    });
    let ranks = on_mesh(TP2_DP2, |mesh| {
        let mut trainer = trainer(&finetune, mesh.clone());
        for step in 0..3 {
            trainer
                .step(&microbatches(&finetune, &samples, &mesh, step), |peak| peak, step)
                .unwrap();
        }
        weights(&trainer)
    });
    for other in &ranks[1..] {
        same(&ranks[0], other);
    }
}

#[test]
fn steps_without_a_gradient_are_not_counted() {
    within_limit(|| {
        let mut finetune = deep();
        ddp(&mut finetune, true, true);
        // Step 3 has no image, step 5 no label.
        let samples = Samples::edited(&finetune, |index, sample| {
            mixed(index, sample);
            if index / 8 == 5 {
                without_labels(sample);
            }
        });
        on_mesh(DP2, |mesh| {
            let mut trainer = trainer(&finetune, mesh.clone());
            let mut before = BTreeMap::new();
            for step in 0..6 {
                before = weights(&trainer);
                let batches = microbatches(&finetune, &samples, &mesh, step);
                trainer.step(&batches, |peak| peak, step).unwrap();
            }
            same(&before, &weights(&trainer));
            for shard in trainer.optimizer().shards() {
                let needs_pixels = shard.spec.name.contains("vision_tower") || shard.spec.name.contains("projector");
                let count = if needs_pixels { 4.0 } else { 5.0 };
                assert_eq!(shard.step.double_value(&[0]), count, "{}", shard.spec.name);
            }
        });
    });
}

#[test]
fn shards_match_their_windows_of_the_weights() {
    within_limit(|| {
        let mut finetune = deep();
        ddp(&mut finetune, true, false);
        finetune.trainer.strategy.tensor_model_parallel_size = 2;
        on_mesh(TP2_DP2, |mesh| {
            let trainer = trainer(&finetune, mesh.clone());
            let (rank, size) = (mesh.axis(Axis::Tensor).rank(), mesh.axis(Axis::Tensor).size());
            let whole = weights(&trainer);
            let mut straddling = 0;
            for shard in trainer.optimizer().shards() {
                straddling += usize::from(shard.range.start > 0);
                let [rows, columns] = shard.spec.matrix();
                let matrix = whole[&shard.spec.name].view([rows as i64, columns as i64]);
                for (start, window) in shard.spec.windows_of(shard.range.clone(), rank, size) {
                    let [height, width] = window.shape();
                    let there =
                        matrix
                            .narrow(0, window.rows.start as i64, height as i64)
                            .narrow(1, window.columns.start as i64, width as i64);
                    let here = shard
                        .master
                        .narrow(start - shard.range.start, window.numel())
                        .unwrap()
                        .values()
                        .unwrap();
                    assert!(here.equal(&there.reshape([-1])), "{}: {window:?}", shard.spec.name);
                }
            }
            assert!(
                mesh.dp_cp_group().rank() == 0 || straddling > 10,
                "{straddling} parameters are split between ranks"
            );
        });
    });
}

#[test]
fn shards_cover_each_parameter_once() {
    within_limit(|| {
        let mut finetune = deep();
        ddp(&mut finetune, true, false);
        let shards = on_mesh(DP4, |mesh| {
            let trainer = trainer(&finetune, mesh);
            let shards = trainer.optimizer().shards();
            shards.map(|shard| (shard.spec.name.clone(), shard.range)).collect::<Vec<_>>()
        });
        let mut owned: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (name, range) in shards.into_iter().flatten() {
            assert!(!range.is_empty());
            owned.entry(name).or_default().push(range);
        }
        let parameters = on_mesh(ONE, |mesh| {
            let trainer = trainer(&finetune, mesh);
            let trained = trainer.parameters().trainable();
            trained
                .map(|parameter| (parameter.spec.name.clone(), parameter.tensor.numel()))
                .collect::<Vec<_>>()
        });
        for (name, numel) in &parameters[0] {
            let ranges = owned.get_mut(name).unwrap();
            ranges.sort_by_key(|range| range.start);
            let mut at = 0;
            for range in ranges {
                assert_eq!(range.start, at, "{name}");
                at = range.end;
            }
            assert_eq!(at, *numel, "{name}");
        }
    });
}
