//! The distributed optimizer's gather of weights in FP8.

use super::in_fp8;
use crate::distributed::ddp;
use crate::layout::{four_layers, mixed};
use crate::setting::{ONE, Samples, bits, lay_out, microbatches, on_mesh, train, trainer, within_limit};
use neva_engine::optim::Partition;
use neva_schemas::{Finetune, Fp8Recipe, ParallelSizes};
use tch::Kind;

fn run(recipe: Fp8Recipe, gather: bool, overlap: bool, sizes: ParallelSizes) -> Finetune {
    let mut finetune = four_layers();
    in_fp8(&mut finetune, |plugin| {
        (plugin.fp8_recipe, plugin.fp8_param_gather) = (recipe, Some(gather))
    });
    ddp(&mut finetune, true, overlap);
    finetune.trainer.strategy.ddp.bucket_size = 10_000;
    lay_out(&mut finetune, sizes);
    finetune
}

/// A weight that is quantised twice with the same scale has the same bits, so the losses do not change.
#[test]
fn weights_that_were_gathered_in_fp8_give_the_same_losses() {
    within_limit(|| {
        let (dp2, tp2) = (ParallelSizes { dp: 2, ..ONE }, ParallelSizes { tp: 2, dp: 2, ..ONE });
        for recipe in [Fp8Recipe::Delayed, Fp8Recipe::Tensorwise] {
            for (sizes, overlap) in [(dp2, false), (dp2, true), (tp2, true)] {
                let plain = run(recipe, false, overlap, sizes);
                let samples = Samples::edited(&plain, mixed);
                let expected = train(&plain, &samples, sizes, 4);
                let got = train(&run(recipe, true, overlap, sizes), &samples, sizes, 4);
                assert_eq!(bits(&got.losses), bits(&expected.losses), "{recipe:?}, {sizes:?}");
                // The weights of the linears are FP8 values in bf16, the others are the same.
                for (name, expected) in &expected.weights {
                    let is_linear = name.contains("language_model.layers") && name.contains("_proj.weight");
                    assert_eq!(got.weights[name].equal(expected), !is_linear, "{recipe:?}, {sizes:?}: {name}");
                    assert_eq!(expected.kind(), Kind::BFloat16);
                }
            }
        }
    });
}

#[test]
fn a_gathered_weight_takes_one_byte() {
    within_limit(|| {
        let sizes = ParallelSizes { dp: 2, ..ONE };
        let sent = |gather: bool| {
            let finetune = run(Fp8Recipe::Delayed, gather, true, sizes);
            let samples = Samples::of(&finetune);
            let ranks = on_mesh(sizes, |mesh| {
                let mut trainer = trainer(&finetune, mesh.clone());
                let bytes = || mesh.traffic()["data"].get("all_gather").map_or(0, |sent| sent.bytes);
                let before = bytes();
                trainer.step(&microbatches(&finetune, &samples, &mesh, 0), |peak| peak, 0).unwrap();
                trainer.finish_param_gather().unwrap();
                let partition = Partition::new(trainer.parameters(), &finetune, &mesh);
                let of = |(index, bucket): (usize, &neva_layout::Bucket)| {
                    let bytes = if partition.is_gathered_in_fp8(index) { 1 } else { 2 };
                    assert!(gather || bytes == 2);
                    bucket.len * bytes / 2
                };
                let expected: usize = partition.buckets().iter().enumerate().map(of).sum();
                assert_eq!(bytes() - before, expected as u64);
                expected
            });
            ranks[0]
        };
        let (plain, in_fp8) = (sent(false), sent(true));
        assert!((in_fp8 as f64) < 0.8 * plain as f64, "{in_fp8} of {plain} bytes");
    });
}
