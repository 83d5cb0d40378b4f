//! Overlap of communication with computation does not change the result.

use crate::distributed::{ddp, deep, same};
use crate::gloo::{TIMEOUT, on_gloo};
use crate::layout::mixed;
use crate::setting::{
    ONE, Samples, Trained, bits, close, close_tensors, lora, microbatches, on_mesh, train, trainer, weights, within_limit,
};
use neva_engine::comm::Mesh;
use neva_schemas::{Finetune, ParallelSizes};

const DP2: ParallelSizes = ParallelSizes { dp: 2, ..ONE };
const TP2_DP2: ParallelSizes = ParallelSizes { tp: 2, dp: 2, ..ONE };
const PP2_DP2: ParallelSizes = ParallelSizes { pp: 2, dp: 2, ..ONE };
const STEPS: u64 = 6;

#[test]
fn overlap_gives_the_same_bits() {
    within_limit(|| {
        for adapters in [false, true] {
            for (distributed, sizes) in [(true, DP2), (false, DP2), (true, TP2_DP2), (true, PP2_DP2)] {
                let mut finetune = deep();
                // One bucket for each parameter: using one before its gather is complete would use old values.
                finetune.trainer.strategy.ddp.bucket_size = 1;
                if adapters {
                    lora(&mut finetune);
                }
                finetune.trainer.strategy.tensor_model_parallel_size = sizes.tp;
                finetune.trainer.strategy.sequence_parallel = sizes.tp > 1;
                let samples = Samples::edited(&finetune, mixed);
                let [off, on] = [false, true].map(|overlap| {
                    ddp(&mut finetune, distributed, overlap);
                    train(&finetune, &samples, sizes, STEPS)
                });
                assert_eq!(bits(&on.losses), bits(&off.losses), "{sizes:?}, distributed: {distributed}");
                same(&on.weights, &off.weights);
            }
        }
    });
}

/// Trains on ranks over Gloo.
fn over_gloo(finetune: &Finetune, samples: &Samples, sizes: ParallelSizes) -> Vec<Trained> {
    on_gloo(
        sizes.world(),
        TIMEOUT,
        |_| "plan",
        |met| {
            let met = met.unwrap();
            let mesh = Mesh::new(sizes, &met.factory).unwrap();
            let mut trainer = trainer(finetune, mesh.clone());
            let step = |step| {
                let batches = microbatches(finetune, samples, &mesh, step);
                let report = trainer.step(&batches, |peak| peak, step).unwrap();
                (report.loss.unwrap(), report.grad_norm.unwrap())
            };
            let (losses, norms) = (0..STEPS).map(step).unzip();
            let weights = weights(&trainer);
            drop((trainer, mesh));
            met.leave(TIMEOUT);
            Trained { losses, norms, weights }
        },
    )
}

#[test]
fn training_over_gloo_matches_one_rank() {
    within_limit(|| {
        let mut finetune = deep();
        let samples = Samples::edited(&finetune, mixed);
        let expected = train(&finetune, &samples, ONE, STEPS);
        for (distributed, overlap, sizes) in [(true, true, DP2), (true, false, DP2), (false, true, DP2), (true, true, TP2_DP2)] {
            ddp(&mut finetune, distributed, overlap);
            finetune.trainer.strategy.tensor_model_parallel_size = sizes.tp;
            let ranks = over_gloo(&finetune, &samples, sizes);
            let what = format!("{sizes:?}, distributed: {distributed}, overlap: {overlap}");
            for rank in &ranks {
                close(&format!("{what}: loss"), &rank.losses, &expected.losses, 1e-5);
                close_tensors(&what, &rank.weights, &expected.weights, 1e-4);
                same(&rank.weights, &ranks[0].weights);
            }
        }
    });
}

#[test]
fn every_read_of_weights_waits_for_the_param_gather() {
    within_limit(|| {
        let mut finetune = deep();
        let samples = Samples::edited(&finetune, mixed);
        ddp(&mut finetune, true, true);
        on_mesh(DP2, |mesh| {
            let mut trainer = trainer(&finetune, mesh.clone());
            let batches = microbatches(&finetune, &samples, &mesh, 0);
            let mut seen = Vec::new();
            for step in 0..3 {
                trainer.step(&batches, |peak| peak, step).unwrap();
                // Each step starts with another kind of read.
                let logits = match step {
                    0 => trainer.logits(&batches[0].batch).unwrap(),
                    1 => weights(&trainer)["lm_head.weight"].copy(),
                    _ => {
                        let shards = trainer.optimizer().shards();
                        shards
                            .map(|shard| shard.master.values().unwrap().sum(tch::Kind::Double))
                            .reduce(|a, b| a + b)
                            .unwrap()
                    }
                };
                seen.push(logits);
            }
            let mut plain = finetune.clone();
            ddp(&mut plain, true, false);
            let mut other = crate::setting::trainer(&plain, mesh.clone());
            for step in 0..3 {
                other.step(&batches, |peak| peak, step).unwrap();
                let expected = match step {
                    0 => other.logits(&batches[0].batch).unwrap(),
                    1 => weights(&other)["lm_head.weight"].copy(),
                    _ => {
                        let shards = other.optimizer().shards();
                        shards
                            .map(|shard| shard.master.values().unwrap().sum(tch::Kind::Double))
                            .reduce(|a, b| a + b)
                            .unwrap()
                    }
                };
                assert!(seen[step as usize].equal(&expected), "step {step}");
            }
        });
    });
}
