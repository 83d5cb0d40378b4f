//! The distributed optimizer with bf16 weights.

use super::{DP2, TP2_DP2, ddp, deep};
use crate::layout::mixed;
use crate::setting::{Samples, bits, close, microbatches, on_mesh, precision, train, trainer, within_limit};
use neva_schemas::Precision;
use tch::Kind;

/// A bf16 weight is the rounded fp32 value of the rank that updates it, bitwise and on every rank.
#[test]
fn bf16_weights_are_rounded_master_weights() {
    within_limit(|| {
        for sizes in [DP2, TP2_DP2] {
            let mut finetune = deep();
            precision(&mut finetune, Precision::Bf16Mixed);
            ddp(&mut finetune, true, true);
            finetune.trainer.strategy.tensor_model_parallel_size = sizes.tp;
            let samples = Samples::edited(&finetune, mixed);
            on_mesh(sizes, |mesh| {
                let mut trainer = trainer(&finetune, mesh.clone());
                let mut rounded = 0;
                for step in 0..4 {
                    let batches = microbatches(&finetune, &samples, &mesh, step);
                    trainer.step(&batches, |peak| peak, step).unwrap();
                    for shard in trainer.optimizer().shards() {
                        let name = &shard.spec.name;
                        let weight = trainer.parameters().get(name).unwrap().tensor.detach().view([-1]);
                        assert_eq!(weight.kind(), Kind::BFloat16);
                        let (start, len) = (shard.range.start as i64, shard.range.len() as i64);
                        let master = shard.master.values().unwrap();
                        let expected = master.to_kind(Kind::BFloat16);
                        assert!(weight.narrow(0, start, len).equal(&expected), "{sizes:?}, step {step}: {name}");
                        rounded += i64::from(master.ne_tensor(&expected).any().int64_value(&[]) == 1);
                    }
                }
                assert!(rounded > 0, "no value was rounded");
            });
            // Compares the weights of all ranks.
            train(&finetune, &samples, sizes, 4);
        }
    });
}

/// The first update with and without a distributed optimizer differs only by the summation order of the norm, which
/// changes a rounded weight to the next bf16 at most. Later steps are not compared: gradients that are rounding noise
/// differ, and Adam turns them into steps of the size of the learning rate.
#[test]
fn the_first_bf16_update_matches_the_plain_optimizer() {
    within_limit(|| {
        let mut finetune = deep();
        precision(&mut finetune, Precision::Bf16Mixed);
        let samples = Samples::edited(&finetune, mixed);
        let mut first_step = |distributed| {
            ddp(&mut finetune, distributed, distributed);
            train(&finetune, &samples, DP2, 1)
        };
        let (expected, got) = (first_step(false), first_step(true));
        assert_eq!(bits(&got.losses), bits(&expected.losses));
        close("norm", &got.norms, &expected.norms, 1e-6);
        for (name, expected) in &expected.weights {
            let (got, expected) = (got.weights[name].to_kind(Kind::Float), expected.to_kind(Kind::Float));
            // A bf16 has 8 significant bits: the relative distance to the next one is at most 2^-7.
            let allowed = expected.abs() / 128.0 + 1e-8;
            let off = ((got - expected).abs() - allowed).max().double_value(&[]);
            assert!(off <= 0.0, "{name}: a value is more than the next bf16 away");
        }
    });
}
