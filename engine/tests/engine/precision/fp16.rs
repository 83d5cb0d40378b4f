//! Training in fp16: overflows are skipped on all ranks of all layouts, counted, and part of a checkpoint.

use crate::layout::mixed;
use crate::setting::{
    ONE, Samples, bits, json_lines, lay_out, lora, microbatches, on_mesh, precision, run, small, trainer, weights, within_limit,
};
use neva_engine::optim::learning_rate;
use neva_schemas::{Finetune, METRICS_FILE, MixedPrecision, ParallelSizes, Precision, exit_class};
use serde_json::Value;
use tch::Kind;

/// Returns a run in fp16 whose first scale overflows: each overflow halves it.
fn fp16(mut finetune: Finetune, initial: f64) -> Finetune {
    precision(&mut finetune, Precision::Fp16Mixed);
    let plugin = finetune.trainer.mixed_precision_mut();
    (plugin.fp16_initial_loss_scale, plugin.fp16_hysteresis) = (initial, 1);
    finetune
}

/// An overflow skips the step, halves the scale and changes nothing else. The scales and the losses are those of one rank.
#[test]
fn an_overflow_is_skipped_on_all_ranks_of_all_layouts() {
    within_limit(|| {
        let finetune = fp16(small(), 2f64.powi(32));
        let samples = Samples::edited(&finetune, mixed);
        let mut expected = None;
        for sizes in [
            ONE,
            ParallelSizes { dp: 2, ..ONE },
            ParallelSizes { tp: 2, ..ONE },
            ParallelSizes { cp: 2, ..ONE },
            ParallelSizes { pp: 2, ..ONE },
        ] {
            let mut finetune = finetune.clone();
            lay_out(&mut finetune, sizes);
            finetune.trainer.strategy.ddp.use_distributed_optimizer = sizes.dp > 1;
            let ranks = on_mesh(sizes, |mesh| {
                let mut trainer = trainer(&finetune, mesh.clone());
                let step = |step| {
                    let before = weights(&trainer);
                    let report = trainer
                        .step(&microbatches(&finetune, &samples, &mesh, step % 4), |_| 1e-3, step)
                        .unwrap();
                    let same = weights(&trainer).iter().all(|(name, weight)| weight.equal(&before[name]));
                    assert_eq!(same, !report.applied, "{sizes:?}, step {step}: weights change in applied steps");
                    (report.applied, report.loss_scale.unwrap(), report.loss.unwrap())
                };
                (0..24).map(step).collect::<Vec<_>>()
            });
            let scales: Vec<_> = ranks[0].iter().map(|(_, scale, _)| scale.log2()).collect();
            let skipped = ranks[0].iter().filter(|(applied, ..)| !applied).count();
            assert!((8..22).contains(&skipped), "{sizes:?}: {skipped} skipped, scales {scales:?}");
            for (step, (applied, scale, _)) in ranks[0].iter().enumerate().take(23) {
                let next = ranks[0][step + 1].1;
                assert_eq!(next, if *applied { *scale } else { scale / 2.0 }, "{sizes:?}, step {step}");
            }
            assert!(ranks.iter().all(|rank| rank == &ranks[0]), "{sizes:?}: ranks differ");
            let expected = expected.get_or_insert_with(|| ranks[0].clone());
            for (step, (got, one)) in ranks[0].iter().zip(expected.iter()).enumerate() {
                assert_eq!(
                    (got.0, got.1),
                    (one.0, one.1),
                    "{sizes:?}, step {step}: skips and scales are one rank's"
                );
                assert!(
                    (got.2 / one.2 - 1.0).abs() < 2e-3,
                    "{sizes:?}, step {step}: loss {} against {}",
                    got.2,
                    one.2
                );
            }
        }
    });
}

/// fp16 with a fitting scale trains as fp32 does, and the reported norm is that of the unscaled gradient.
#[test]
fn losses_and_norms_follow_fp32() {
    within_limit(|| {
        for adapters in [false, true] {
            let mut plain = small();
            if adapters {
                lora(&mut plain);
            }
            let trained = |finetune: &Finetune| {
                let samples = Samples::of(finetune);
                let mut results = on_mesh(ONE, |mesh| {
                    let mut trainer = trainer(finetune, mesh.clone());
                    let kinds: Vec<_> = trainer.parameters().iter().map(|parameter| parameter.tensor.kind()).collect();
                    let step = |step| {
                        let report = trainer
                            .step(&microbatches(finetune, &samples, &mesh, step), |_| 1e-3, step)
                            .unwrap();
                        assert!(report.applied, "step {step}");
                        (report.loss.unwrap(), report.grad_norm.unwrap())
                    };
                    ((0..6).map(step).collect::<Vec<_>>(), kinds)
                });
                results.remove(0)
            };
            let (expected, _) = trained(&plain);
            let (got, kinds) = trained(&fp16(plain, 1024.0));
            assert!(kinds.iter().all(|kind| *kind == Kind::Half), "{kinds:?}");
            for (step, (got, expected)) in got.iter().zip(&expected).enumerate() {
                assert!(
                    (got.0 / expected.0 - 1.0).abs() < 5e-3,
                    "loss of step {step}: {got:?} against {expected:?}"
                );
                assert!(
                    (got.1 / expected.1 - 1.0).abs() < 5e-2,
                    "norm of step {step}: {got:?} against {expected:?}"
                );
            }
        }
    });
}

/// A resumed run has the scale, the trackers and the count of skipped steps of the undisturbed one, bit for bit.
#[test]
fn the_scale_is_in_the_checkpoint() {
    within_limit(|| {
        let folder = tempfile::tempdir().unwrap();
        let mut finetune = fp16(small(), 2f64.powi(26));
        let plugin = finetune.trainer.mixed_precision_mut();
        (plugin.fp16_loss_scale_window, plugin.fp16_hysteresis) = (3, 2);
        finetune.trainer.max_steps = Some(24);
        finetune.log.ckpt.every_n_train_steps = Some(4);
        finetune.log.ckpt.save_top_k = -1;
        let whole = run(&finetune, &folder.path().join("whole")).unwrap();
        let lines = |name: &str| -> Vec<_> {
            let lines = json_lines(&folder.path().join(name).join(METRICS_FILE));
            let number = |line: &Value, key: &str| line[key].as_f64().unwrap();
            lines
                .iter()
                .map(|line| ["loss_scale", "skipped_steps", "lr"].map(|key| number(line, key)))
                .collect()
        };
        let expected = lines("whole");
        assert!(expected[23][1] >= 4.0, "steps are skipped: {expected:?}");
        assert!(
            expected.windows(2).any(|pair| pair[1][0] > pair[0][0]),
            "the scale grows: {expected:?}"
        );
        // A skipped step does not advance the schedule: step n has the rate of the nth applied one.
        let schedule = finetune.optim.lr_scheduler();
        for (step, line) in (0..).zip(&expected) {
            let before = if step == 0 { 0 } else { expected[step as usize - 1][1] as u64 };
            let rate = learning_rate(schedule, *finetune.optim.lr(), 24, step - before);
            assert_eq!(line[2], rate, "step {step}: {expected:?}");
        }
        for at in [4, 16] {
            let name = format!("resumed{at}");
            let mut second = finetune.clone();
            let checkpoint = format!("whole/checkpoints/default--step={}-consumed_samples={}", at - 1, 8 * at);
            second.resume.resume_from_path = Some(folder.path().join(checkpoint));
            let resumed = run(&second, &folder.path().join(&name)).unwrap();
            assert_eq!(bits(&resumed.losses), bits(&whole.losses[at..]), "resumed after {at} steps");
            assert_eq!(lines(&name), expected[at..], "resumed after {at} steps");
        }
    });
}

/// A constant scale that always overflows ends the run; so does a scale that cannot fall further.
#[test]
fn overflows_without_end_fail_the_run() {
    within_limit(|| {
        let change: [fn(&mut MixedPrecision); 2] = [
            |plugin| plugin.fp16_loss_scale = Some(2f64.powi(60)),
            |plugin| (plugin.fp16_initial_loss_scale, plugin.fp16_min_loss_scale) = (2f64.powi(62), 2f64.powi(60)),
        ];
        for change in change {
            let folder = tempfile::tempdir().unwrap();
            let mut finetune = fp16(small(), 1.0);
            finetune.trainer.max_steps = Some(30);
            change(finetune.trainer.mixed_precision_mut());
            let failure = run(&finetune, folder.path()).unwrap_err();
            assert_eq!(failure.class, exit_class::JOB);
            assert!(failure.to_string().contains("the gradient norm of ten steps in a row"), "{failure}");
        }
    });
}
