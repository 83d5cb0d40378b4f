//! The distributed optimizer: each rank updates its share, and training is what it is on one rank.

use crate::setting::{
    ONE, Samples, Trained, bits, close, close_tensors, gradients, lora, microbatches, on_mesh, precision, small, train, trainer, weights,
    within_limit, without_labels, without_picture,
};
use neva_engine::comm::{Axis, Mesh};
use neva_layout::{Cut, ReplicaTraffic, buckets};
use neva_schemas::{AdamW, Finetune, Lion, LrScheduler, Optim, ParallelSizes, ParamGroup, Precision, Sgd, VisionPlacement};
use std::collections::BTreeMap;
use tch::{Kind, Tensor};

const STEPS: u64 = 10;
const DP2: ParallelSizes = ParallelSizes { dp: 2, ..ONE };
const DP4: ParallelSizes = ParallelSizes { dp: 4, ..ONE };
const TP2_DP2: ParallelSizes = ParallelSizes { tp: 2, dp: 2, ..ONE };

/// Four layers; buckets so small that most parameters have one to themselves and many lie on two ranks.
pub(crate) fn deep() -> Finetune {
    let mut finetune = small();
    finetune.model.llava_mut().text_config.num_hidden_layers = 4;
    finetune.trainer.strategy.ddp.bucket_size = 10_000;
    finetune
}

/// Settings of the data-parallel ranks, from nothing to all.
pub(crate) fn ddp(finetune: &mut Finetune, distributed: bool, overlap: bool) {
    let ddp = &mut finetune.trainer.strategy.ddp;
    ddp.use_distributed_optimizer = distributed;
    (ddp.overlap_grad_reduce, ddp.overlap_param_gather) = (overlap, overlap);
}

/// With global batches of 8 and micro-batches of 2, two ranks have samples 0, 1, 4, 5 and 2, 3, 6, 7; four ranks two
/// each. Pictures are missing on one rank, in one step on all; one rank's last micro-batch, and in one step all that
/// it has, teaches nothing.
pub(crate) fn mixed(index: usize, sample: &mut neva_data::Sample) {
    let (step, within) = (index / 8, index % 8);
    if step == 3 || matches!(within, 2 | 3) {
        without_picture(sample);
    }
    if matches!(within, 4 | 6 | 7) || (step == 5 && matches!(within, 2 | 3)) {
        without_labels(sample);
    }
}

#[track_caller]
fn check(name: &str, layouts: &[ParallelSizes], change: impl FnOnce(&mut Finetune)) {
    let mut finetune = deep();
    change(&mut finetune);
    ddp(&mut finetune, false, false);
    let samples = Samples::edited(&finetune, mixed);
    let expected = train(&finetune, &samples, ONE, STEPS);
    ddp(&mut finetune, true, true);
    for sizes in layouts {
        for sequence_parallel in [false, true].into_iter().take(sizes.tp as usize) {
            finetune.trainer.strategy.tensor_model_parallel_size = sizes.tp;
            finetune.trainer.strategy.sequence_parallel = sequence_parallel;
            let got = train(&finetune, &samples, *sizes, STEPS);
            let name = format!("{name}, {sizes:?}, sequence parallel: {sequence_parallel}");
            close(&format!("{name}: loss"), &got.losses, &expected.losses, 1e-5);
            close_tensors(&name, &got.weights, &expected.weights, 1e-4);
        }
    }
}

const ALL: &[ParallelSizes] = &[DP2, DP4, TP2_DP2];

#[test]
fn trains_the_whole_model_as_one_rank_does() {
    within_limit(|| check("full", ALL, |_| {}));
}

#[test]
fn trains_adapters_as_one_rank_does() {
    within_limit(|| check("LoRA", ALL, lora));
}

#[test]
fn sums_the_copies_of_key_and_value_heads() {
    within_limit(|| {
        // Two heads on four ranks, each on two of them.
        let layouts = [1, 2].map(|dp| ParallelSizes { tp: 4, dp, ..ONE });
        check("copied heads", &layouts, |_| {});
        check("copied heads with LoRA", &layouts[1..], lora);
    });
}

#[test]
fn trains_stages_of_a_pipeline_as_one_rank_does() {
    within_limit(|| {
        let stages = ParallelSizes { pp: 2, dp: 2, ..ONE };
        for (chunks, adapters, tied) in [(1, false, true), (2, false, true), (2, true, false)] {
            let mut finetune = deep();
            finetune.model.llava_mut().text_config.tie_word_embeddings = tied;
            if adapters {
                lora(&mut finetune);
            }
            ddp(&mut finetune, false, false);
            let samples = Samples::edited(&finetune, mixed);
            let expected = train(&finetune, &samples, ONE, STEPS);
            let strategy = &mut finetune.trainer.strategy;
            strategy.virtual_pipeline_model_parallel_size = (chunks > 1).then_some(chunks);
            for overlap in [false, true] {
                ddp(&mut finetune, true, overlap);
                let got = train(&finetune, &samples, stages, STEPS);
                let name = format!("{chunks} chunks, LoRA: {adapters}, tied: {tied}, overlap: {overlap}");
                close(&format!("{name}: loss"), &got.losses, &expected.losses, 1e-5);
                close_tensors(&name, &got.weights, &expected.weights, 1e-4);
            }
        }
    });
}

#[test]
fn leaves_frozen_parts_alone() {
    within_limit(|| {
        check("frozen vision encoder", &[DP2], |finetune| {
            finetune.model.llava_mut().freeze_vision_model = true
        });
        // In the text-only step nothing is left to train.
        check("frozen language model", &[DP4], |finetune| {
            finetune.model.llava_mut().freeze_language_model = true
        });
    });
}

#[test]
fn trains_a_tied_head_in_buckets_of_any_size() {
    within_limit(|| {
        for size in [1, 1 << 40] {
            check(&format!("buckets of {size}"), &[TP2_DP2], |finetune| {
                finetune.model.llava_mut().text_config.tie_word_embeddings = true;
                finetune.trainer.strategy.ddp.bucket_size = size;
            });
        }
    });
}

/// Trains at a rate of its own for the projector, with a decay that vectors are spared.
fn grouped(finetune: &mut Finetune) {
    *finetune.optim.weight_decay_mut() = 0.3;
    *finetune.optim.param_groups_mut() = vec![ParamGroup {
        params: vec!["*projector*".into()],
        lr: Some(5e-3),
        weight_decay: None,
    }];
}

#[test]
fn knows_every_optimizer_and_group() {
    within_limit(|| {
        let optimizers = [
            Optim::AdamW(AdamW {
                lr_scheduler: LrScheduler::constant(),
                ..AdamW::default()
            }),
            Optim::Sgd(Sgd {
                momentum: 0.9,
                lr_scheduler: LrScheduler::constant(),
                ..Sgd::default()
            }),
            Optim::Lion(Lion {
                lr_scheduler: LrScheduler::constant(),
                ..Lion::default()
            }),
        ];
        for optim in optimizers {
            let mut finetune = deep();
            finetune.optim = optim.clone();
            *finetune.optim.clip_grad_mut() = 0.0;
            grouped(&mut finetune);
            let samples = Samples::edited(&finetune, mixed);
            let expected = of(&mut finetune, &samples, DP2, false);
            let got = of(&mut finetune, &samples, DP2, true);
            close(&format!("{optim:?}: loss"), &got.losses, &expected.losses, 1e-6);
            close_tensors(&format!("{optim:?}"), &got.weights, &expected.weights, 1e-6);
        }
    });
}

fn of(finetune: &mut Finetune, samples: &Samples, sizes: ParallelSizes, distributed: bool) -> Trained {
    ddp(finetune, distributed, distributed);
    train(finetune, samples, sizes, 4)
}

#[test]
fn rounds_to_bf16_as_every_rank_would() {
    within_limit(|| {
        let mut finetune = deep();
        precision(&mut finetune, Precision::Bf16Mixed);
        let samples = Samples::edited(&finetune, mixed);
        let expected = of(&mut finetune, &samples, DP2, false);
        let got = of(&mut finetune, &samples, DP2, true);
        // A norm that is added up in another order moves a weight by a unit of bf16 at most.
        close("loss", &got.losses, &expected.losses, 1e-3);
        close_tensors("bf16", &got.weights, &expected.weights, 1.0 / 128.0);
        assert!(got.weights.values().all(|weight| weight.kind() == Kind::BFloat16));
    });
}

#[test]
fn changes_nothing_on_one_rank() {
    within_limit(|| {
        let mut finetune = deep();
        let samples = Samples::edited(&finetune, mixed);
        let (plain, distributed) = (of(&mut finetune, &samples, ONE, false), of(&mut finetune, &samples, ONE, true));
        assert_eq!(bits(&plain.losses), bits(&distributed.losses));
        same(&plain.weights, &distributed.weights);
    });
}

#[track_caller]
pub(crate) fn same(a: &BTreeMap<String, Tensor>, b: &BTreeMap<String, Tensor>) {
    assert_eq!(a.len(), b.len());
    for (name, a) in a {
        assert!(a.equal(&b[name]), "{name} differs");
    }
}

#[test]
fn sums_gradients_and_their_norm_as_one_rank_does() {
    within_limit(|| {
        let mut finetune = deep();
        ddp(&mut finetune, true, true);
        let samples = Samples::edited(&finetune, mixed);
        let accumulated = |finetune: &Finetune, mesh: Mesh| {
            let mut trainer = trainer(finetune, mesh.clone());
            let batches = microbatches(finetune, &samples, &mesh, 0);
            // The second time shows that nothing is left of the first.
            trainer.accumulate(&batches).unwrap();
            let norm = trainer.accumulate(&batches).unwrap().grad_norm;
            (norm, gradients(&trainer))
        };
        let (norm, expected) = accumulated(&finetune, Mesh::single());
        for sizes in ALL {
            finetune.trainer.strategy.tensor_model_parallel_size = sizes.tp;
            finetune.trainer.strategy.sequence_parallel = sizes.tp > 1;
            for (other, got) in on_mesh(*sizes, |mesh| accumulated(&finetune, mesh)) {
                close("norm", &[other], &[norm], 1e-5);
                close_tensors(&format!("{sizes:?}"), &got, &expected, 1e-4);
            }
        }
    });
}

#[test]
fn shares_out_memory_evenly() {
    within_limit(|| {
        for kind in [Precision::Fp32, Precision::Bf16Mixed] {
            let mut finetune = deep();
            finetune.trainer.strategy.ddp.bucket_size = 100_000;
            ddp(&mut finetune, true, true);
            precision(&mut finetune, kind);
            for sizes in [DP2, DP4] {
                let kept = on_mesh(sizes, |mesh| {
                    let trainer = trainer(&finetune, mesh);
                    let trained: usize = trainer.parameters().trainable().map(|parameter| parameter.tensor.numel()).sum();
                    let pieces = trainer.optimizer().pieces().map(|piece| {
                        let master = [("", piece.master)];
                        let values = piece.moments.iter().chain(&master).map(|(_, tensor)| {
                            assert_eq!((tensor.kind(), tensor.numel()), (Kind::Float, piece.range.len()));
                            tensor.numel()
                        });
                        values.sum::<usize>()
                    });
                    (trained, pieces.sum::<usize>())
                });
                let trained = kept[0].0;
                assert_eq!(
                    kept.iter().map(|(_, kept)| kept).sum::<usize>(),
                    3 * trained,
                    "each value has one owner"
                );
                let ranks = kept.len();
                for (_, kept) in kept {
                    let (kept, fair) = (kept as f64, 3.0 * trained as f64 / ranks as f64);
                    assert!((kept / fair - 1.0).abs() < 0.02, "{kept} values of a fair share of {fair}");
                }
            }
        }
    });
}

#[test]
fn sends_what_the_formula_says() {
    within_limit(|| {
        for (kind, weight_bytes) in [(Precision::Fp32, 4), (Precision::Bf16Mixed, 2)] {
            for (distributed, sizes) in [(false, DP2), (true, DP2), (false, DP4), (true, DP4), (true, TP2_DP2)] {
                let mut finetune = deep();
                precision(&mut finetune, kind);
                ddp(&mut finetune, distributed, true);
                finetune.trainer.strategy.tensor_model_parallel_size = sizes.tp;
                let samples = Samples::edited(&finetune, mixed);
                let ranks = on_mesh(sizes, |mesh| {
                    let mut trainer = trainer(&finetune, mesh.clone());
                    let before = mesh.traffic()["data"].clone();
                    for step in 0..2 {
                        trainer
                            .step(&microbatches(&finetune, &samples, &mesh, step), |peak| peak, step)
                            .unwrap();
                    }
                    let numels: Vec<_> = trainer.parameters().trainable().map(|parameter| parameter.tensor.numel()).collect();
                    (before, mesh.traffic()["data"].clone(), numels)
                });
                for (before, after, numels) in ranks {
                    let multiple = if distributed { 64 * sizes.dp as usize } else { 1 };
                    let buckets = buckets(&numels, None, 10_000, multiple);
                    let expected = ReplicaTraffic::of(&buckets, distributed.then_some(weight_bytes), sizes.dp as usize);
                    let sent = |operation| {
                        let bytes = |traffic: &neva_engine::comm::Traffic| traffic.get(operation).map_or(0, |sent| sent.bytes);
                        (bytes(&after) - bytes(&before)) as f64 / 2.0
                    };
                    let what = format!("{kind:?}, {sizes:?}, distributed: {distributed}");
                    for (operation, expected) in [("reduce_scatter", expected.reduce_scatter), ("all_gather", expected.all_gather)] {
                        assert_eq!(sent(operation), expected as f64, "{what}: {operation}");
                    }
                    // Beside it the counts before and the losses behind a step.
                    let (all_reduce, rest) = (sent("all_reduce"), expected.all_reduce as f64);
                    let total = expected.all_reduce + expected.reduce_scatter + expected.all_gather;
                    assert!(
                        (all_reduce - rest).abs() <= 0.01 * total as f64,
                        "{what}: {all_reduce} against {rest}"
                    );
                }
            }
        }
    });
}

#[test]
fn copies_on_the_tensor_axis_stay_equal() {
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
        // Rank 1 of the tensor axis computes with a projector that is a little off: the gradients differ.
        if mesh.axis(Axis::Tensor).rank() == 1 {
            let name = "model.multi_modal_projector.linear_2.bias";
            let bias = &trainer.parameters().get(name).unwrap().tensor;
            let _ = tch::no_grad(|| bias.shallow_clone().g_add_scalar_(1e-2));
        }
        trainer.accumulate(&microbatches(&finetune, &samples, &mesh, 0)).unwrap();
        for (parameter, gradient) in trainer.gradients() {
            if parameter.spec.part == neva_layout::Part::Projection && parameter.spec.cut == Cut::Replicate {
                let piece = trainer.optimizer().pieces().find(|piece| piece.spec.name == parameter.spec.name);
                let Some(range) = piece.map(|piece| piece.range) else { continue };
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
fn counts_the_steps_of_parameters_that_rested() {
    within_limit(|| {
        let mut finetune = deep();
        ddp(&mut finetune, true, true);
        // Steps 3 and 5: nobody has a picture, nobody has a label.
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
            for piece in trainer.optimizer().pieces() {
                let sees_pictures = piece.spec.name.contains("vision_tower") || piece.spec.name.contains("projector");
                let count = if sees_pictures { 4.0 } else { 5.0 };
                assert_eq!(piece.step.double_value(&[0]), count, "{}", piece.spec.name);
            }
        });
    });
}

#[test]
fn says_which_part_of_a_weight_is_whose() {
    within_limit(|| {
        let mut finetune = deep();
        ddp(&mut finetune, true, false);
        finetune.trainer.strategy.tensor_model_parallel_size = 2;
        on_mesh(TP2_DP2, |mesh| {
            let trainer = trainer(&finetune, mesh.clone());
            let (rank, size) = (mesh.axis(Axis::Tensor).rank(), mesh.axis(Axis::Tensor).size());
            let whole = weights(&trainer);
            let mut straddling = 0;
            for piece in trainer.optimizer().pieces() {
                straddling += usize::from(piece.range.start > 0);
                let [rows, columns] = piece.spec.matrix();
                let matrix = whole[&piece.spec.name].view([rows as i64, columns as i64]);
                for (start, window) in piece.spec.windows_of(piece.range.clone(), rank, size) {
                    let [height, width] = window.shape();
                    let there =
                        matrix
                            .narrow(0, window.rows.start as i64, height as i64)
                            .narrow(1, window.columns.start as i64, width as i64);
                    let here = piece.master.narrow(0, (start - piece.range.start) as i64, window.numel() as i64);
                    assert!(here.equal(&there.reshape([-1])), "{}: {window:?}", piece.spec.name);
                }
            }
            assert!(
                mesh.replicas().rank() == 0 || straddling > 10,
                "{straddling} parameters lie on two ranks"
            );
        });
    });
}

#[test]
fn a_rank_that_shares_nothing_with_a_piece_has_none() {
    within_limit(|| {
        let mut finetune = deep();
        ddp(&mut finetune, true, false);
        let pieces = on_mesh(DP4, |mesh| {
            let trainer = trainer(&finetune, mesh);
            let pieces = trainer.optimizer().pieces();
            pieces.map(|piece| (piece.spec.name.clone(), piece.range)).collect::<Vec<_>>()
        });
        let mut owned: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (name, range) in pieces.into_iter().flatten() {
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
