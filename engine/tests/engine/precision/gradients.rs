//! Gradients that are sent in the data type of the weights: `grad_reduce_in_fp32: false`.

use crate::layout::mixed;
use crate::setting::{ONE, Samples, close, precision, small, train, within_limit};
use neva_schemas::{Finetune, ParallelSizes, Precision};
use tch::Kind;

fn runs(precise: Precision) -> [Finetune; 2] {
    [true, false].map(|in_fp32| {
        let mut finetune = small();
        precision(&mut finetune, precise);
        finetune.trainer.mixed_precision_mut().grad_reduce_in_fp32 = in_fp32;
        finetune
    })
}

/// The sums are rounded, so the steps differ a little; every rank still holds the same weights, which `train` compares.
#[test]
fn sums_are_rounded_to_the_data_type_of_the_weights() {
    within_limit(|| {
        for distributed in [false, true] {
            for overlap in [false, true] {
                let [exact, rounded] = runs(Precision::Bf16Mixed).map(|mut finetune| {
                    let ddp = &mut finetune.trainer.strategy.ddp;
                    (ddp.use_distributed_optimizer, ddp.overlap_grad_reduce) = (distributed, overlap);
                    ddp.bucket_size = 10_000;
                    finetune
                });
                let samples = Samples::edited(&exact, mixed);
                let dp2 = ParallelSizes { dp: 2, ..ONE };
                let (exact, rounded) = (train(&exact, &samples, dp2, 4), train(&rounded, &samples, dp2, 4));
                let what = format!("distributed: {distributed}, overlap: {overlap}");
                close(&what, &rounded.losses, &exact.losses, 1e-2);
                close(&what, &rounded.norms, &exact.norms, 5e-2);
                assert_ne!(rounded.norms, exact.norms, "{what}: nothing was rounded");
            }
        }
    });
}

/// One rank sends nothing, and fp32 weights have fp32 sums.
#[test]
fn without_a_transfer_nothing_is_rounded() {
    within_limit(|| {
        for (precise, sizes) in [(Precision::Bf16Mixed, ONE), (Precision::Fp32, ParallelSizes { dp: 2, ..ONE })] {
            let [exact, rounded] = runs(precise);
            let samples = Samples::edited(&exact, mixed);
            let (exact, rounded) = (train(&exact, &samples, sizes, 3), train(&rounded, &samples, sizes, 3));
            assert_eq!(rounded.losses, exact.losses, "{precise:?}");
            let same =
                |(name, weight): (&String, &tch::Tensor)| weight.to_kind(Kind::Float).equal(&rounded.weights[name].to_kind(Kind::Float));
            assert!(exact.weights.iter().all(same), "{precise:?}");
        }
    });
}
