//! The distributed optimizer: each rank updates its shard, and training matches one rank.

mod bf16;
mod shards;

use crate::layout::{four_layers, mixed};
use crate::setting::{
    ONE, Samples, Trained, bits, close, close_tensors, gradients, lora, microbatches, on_mesh, precision, train, trainer, within_limit,
};
use neva_engine::comm::Mesh;
use neva_layout::{DpCpTraffic, buckets};
use neva_schemas::{AdamW, Finetune, Lion, LrScheduler, Optim, ParallelSizes, ParamGroup, Precision, Sgd};
use std::collections::BTreeMap;
use tch::Tensor;

const STEPS: u64 = 10;
const DP2: ParallelSizes = ParallelSizes { dp: 2, ..ONE };
const DP4: ParallelSizes = ParallelSizes { dp: 4, ..ONE };
const TP2_DP2: ParallelSizes = ParallelSizes { tp: 2, dp: 2, ..ONE };

/// Returns a run with four layers, and buckets so small that most hold one parameter and many are split between ranks.
pub(crate) fn deep() -> Finetune {
    let mut finetune = four_layers();
    finetune.trainer.strategy.ddp.bucket_size = 10_000;
    finetune
}

/// Sets the distributed optimizer and the overlap of grad reduce and param gather.
pub(crate) fn ddp(finetune: &mut Finetune, distributed: bool, overlap: bool) {
    let ddp = &mut finetune.trainer.strategy.ddp;
    ddp.use_distributed_optimizer = distributed;
    (ddp.overlap_grad_reduce, ddp.overlap_param_gather) = (overlap, overlap);
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
fn whole_model_matches_one_rank() {
    within_limit(|| check("full", ALL, |_| {}));
}

#[test]
fn adapters_match_one_rank() {
    within_limit(|| check("LoRA", ALL, lora));
}

#[test]
fn copied_key_and_value_heads_match_one_rank() {
    within_limit(|| {
        // Two heads on four ranks: each head is on two of them.
        let layouts = [1, 2].map(|dp| ParallelSizes { tp: 4, dp, ..ONE });
        check("copied heads", &layouts, |_| {});
        check("copied heads with LoRA", &layouts[1..], lora);
    });
}

#[test]
fn pipeline_stages_match_one_rank() {
    within_limit(|| {
        let stages = ParallelSizes { pp: 2, dp: 2, ..ONE };
        for (chunks, adapters, tied) in [(1, false, true), (2, false, true), (2, true, false)] {
            let mut finetune = deep();
            finetune.model.as_llava_mut().unwrap().text_config.tie_word_embeddings = tied;
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
fn frozen_parameters_match_one_rank() {
    within_limit(|| {
        check("frozen vision encoder", &[DP2], |finetune| {
            finetune.model.as_llava_mut().unwrap().freeze_vision_model = true
        });
        // In the text-only step no parameter has a gradient.
        check("frozen language model", &[DP4], |finetune| {
            finetune.model.as_llava_mut().unwrap().freeze_language_model = true
        });
    });
}

#[test]
fn a_tied_head_in_buckets_of_any_size_matches_one_rank() {
    within_limit(|| {
        for size in [1, 1 << 40] {
            check(&format!("buckets of {size}"), &[TP2_DP2], |finetune| {
                finetune.model.as_llava_mut().unwrap().text_config.tie_word_embeddings = true;
                finetune.trainer.strategy.ddp.bucket_size = size;
            });
        }
    });
}

/// Sets a weight decay, and a learning rate for the projector.
fn grouped(finetune: &mut Finetune) {
    *finetune.optim.weight_decay_mut() = 0.3;
    *finetune.optim.param_groups_mut() = vec![ParamGroup {
        params: vec!["*projector*".into()],
        lr: Some(5e-3),
        weight_decay: None,
    }];
}

#[test]
fn every_optimizer_and_group_matches_the_plain_one() {
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
fn one_rank_gives_the_same_bits() {
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
fn gradients_and_their_norm_match_one_rank() {
    within_limit(|| {
        let mut finetune = deep();
        ddp(&mut finetune, true, true);
        let samples = Samples::edited(&finetune, mixed);
        let accumulated = |finetune: &Finetune, mesh: Mesh| {
            let mut trainer = trainer(finetune, mesh.clone());
            let batches = microbatches(finetune, &samples, &mesh, 0);
            // The second call shows that the first one leaves nothing behind.
            trainer.accumulate(&batches).unwrap();
            let norm = trainer.accumulate(&batches).unwrap().grad_norm.unwrap();
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
fn traffic_matches_the_formula() {
    within_limit(|| {
        for (kind, weight_bytes, in_fp32) in [
            (Precision::Fp32, 4, true),
            (Precision::Bf16Mixed, 2, true),
            (Precision::Bf16Mixed, 2, false),
        ] {
            for (distributed, sizes) in [(false, DP2), (true, DP2), (false, DP4), (true, DP4), (true, TP2_DP2)] {
                let mut finetune = deep();
                precision(&mut finetune, kind);
                finetune.trainer.mixed_precision_mut().grad_reduce_in_fp32 = in_fp32;
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
                    let expected = DpCpTraffic::of(
                        &buckets,
                        if in_fp32 { 4 } else { weight_bytes },
                        distributed.then_some(weight_bytes),
                        sizes.dp as usize,
                    );
                    let sent = |operation| {
                        let bytes = |traffic: &neva_engine::comm::Traffic| traffic.get(operation).map_or(0, |sent| sent.bytes);
                        (bytes(&after) - bytes(&before)) as f64 / 2.0
                    };
                    let what = format!("{kind:?}, {sizes:?}, distributed: {distributed}");
                    for (operation, expected) in [("reduce_scatter", expected.reduce_scatter), ("all_gather", expected.all_gather)] {
                        assert_eq!(sent(operation), expected as f64, "{what}: {operation}");
                    }
                    // Label counts and losses are sent in addition.
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
