//! A resumed run equals a run that was never interrupted.

use crate::distributed::ddp;
use crate::setting::{
    ONE, Samples, bits, close, files, load, loaded, lora, microbatches, mock, no_cache, on_mesh, precision, run, run_on, saved, small,
    trainer, weights, within_limit, without_image,
};
use neva_engine::checkpoint::{Base, CheckpointFolder, restore_optimizer};
use neva_engine::comm::Mesh;
use neva_engine::trainer::{Registry, Trainer};
use neva_schemas::{Finetune, Lion, LrScheduler, Optim, ParallelSizes, Precision, RestoreConfig, RunReport, Sgd, exit_class};
use std::path::Path;

/// Returns a run of six steps that saves every three, in `folder/default/NAME`.
fn saving() -> Finetune {
    let mut finetune = small();
    finetune.log.ckpt.every_n_train_steps = Some(3);
    finetune
}

const AFTER_3: &str = "checkpoints/default--step=2-consumed_samples=24";
const AFTER_6: &str = "checkpoints/default--step=5-consumed_samples=48-last";

fn check(change: impl FnOnce(&mut Finetune)) {
    let folder = tempfile::tempdir().unwrap();
    let (whole, rest) = (folder.path().join("whole"), folder.path().join("rest"));
    let mut finetune = saving();
    change(&mut finetune);
    let expected = run(&finetune, &whole).unwrap();
    finetune.resume.resume_from_path = Some(whole.join(AFTER_3));
    let resumed = run(&finetune, &rest).unwrap();
    assert_eq!((resumed.steps, bits(&resumed.losses)), (6, bits(&expected.losses)[3..].to_vec()));
    let (expected, got) = (files(&whole.join(AFTER_6)), files(&rest.join(AFTER_6)));
    for file in ["model.safetensors", "optimizer.safetensors"] {
        assert!(got[Path::new(file)] == expected[Path::new(file)], "{file} differs");
    }
    let progress = |run: &Path| CheckpointFolder::open(&run.join(AFTER_6)).unwrap().state.progress;
    assert_eq!(progress(&rest), progress(&whole));
}

#[test]
fn is_exact_in_fp32() {
    within_limit(|| {
        check(|_| {});
        check(|finetune| finetune.model.as_llava_mut().unwrap().freeze_vision_model = true);
    });
}

#[test]
fn is_exact_in_bf16() {
    within_limit(|| check(|finetune| precision(finetune, Precision::Bf16Mixed)));
}

/// The first steps overflow: the scale and the count of skipped steps are part of the progress.
#[test]
fn is_exact_in_fp16() {
    within_limit(|| {
        check(|finetune| {
            precision(finetune, Precision::Fp16Mixed);
            let plugin = finetune.trainer.mixed_precision_mut();
            (plugin.fp16_initial_loss_scale, plugin.fp16_loss_scale_window) = (2f64.powi(24), 2);
        });
    });
}

#[test]
fn is_exact_with_adapters() {
    within_limit(|| {
        check(lora);
        check(|finetune| {
            lora(finetune);
            precision(finetune, Precision::Bf16Mixed);
        });
    });
}

#[test]
fn is_exact_with_every_optimizer() {
    within_limit(|| {
        let constant = LrScheduler::constant;
        let sgd = |momentum| {
            Optim::Sgd(Sgd {
                momentum,
                lr_scheduler: constant(),
                ..Sgd::default()
            })
        };
        let lion = || {
            Optim::Lion(Lion {
                lr_scheduler: constant(),
                ..Lion::default()
            })
        };
        for optim in [sgd(0.0), sgd(0.9), lion()] {
            for kind in [Precision::Fp32, Precision::Bf16Mixed] {
                check(|finetune| {
                    finetune.optim = optim.clone();
                    precision(finetune, kind);
                });
            }
        }
    });
}

#[test]
fn of_adapters_finds_the_base_again() {
    within_limit(|| {
        let folder = tempfile::tempdir().unwrap();
        let base = folder.path().join("base");
        run(&saving(), &base).unwrap();
        check(|finetune| {
            lora(finetune);
            finetune.resume.restore_config = Some(RestoreConfig::weights(base.join(AFTER_6).display().to_string()));
        });
    });
}

/// The first two steps have no image: the vision encoder and the projector have fewer steps than the language model.
fn late_images(index: usize, sample: &mut neva_data::Sample) {
    if index < 16 {
        without_image(sample);
    }
}

fn step(trainer: &mut Trainer, finetune: &Finetune, samples: &Samples, step: u64) -> f64 {
    let batches = microbatches(finetune, samples, trainer.mesh(), step);
    trainer.step(&batches, |_| 2e-3, step).unwrap().loss.unwrap()
}

fn restored(path: &Path, finetune: &Finetune, mesh: Mesh) -> Trainer {
    let checkpoint = CheckpointFolder::open(path).unwrap();
    let trainer = Trainer::new(finetune, load(finetune, Some(&checkpoint), &mesh), mesh).unwrap();
    let group = trainer.mesh().axis(neva_engine::comm::Axis::Tensor);
    restore_optimizer(&checkpoint, trainer.optimizer(), trainer.parameters(), (group.rank(), group.size())).unwrap();
    trainer
}

fn counts(trainer: &Trainer) -> Vec<(String, f64)> {
    trainer
        .optimizer()
        .shards()
        .map(|piece| (piece.spec.name.clone(), piece.step.double_value(&[0])))
        .collect()
}

#[test]
fn keeps_the_step_counts_of_unused_parameters() {
    within_limit(|| {
        for kind in [Precision::Fp32, Precision::Bf16Mixed] {
            let folder = tempfile::tempdir().unwrap();
            let mut finetune = small();
            precision(&mut finetune, kind);
            let samples = Samples::edited(&finetune, late_images);
            let mut whole = trainer(&finetune, Mesh::single());
            for at in 0..3 {
                step(&mut whole, &finetune, &samples, at);
            }
            for (name, count) in counts(&whole) {
                let vision = name.contains("vision_tower") || name.contains("projector");
                assert_eq!(count, if vision { 1.0 } else { 3.0 }, "steps of `{name}`");
            }
            let mut resumed = restored(
                &saved(folder.path(), &whole, &finetune, 3, &Vec::new(), 10).unwrap(),
                &finetune,
                Mesh::single(),
            );
            assert_eq!(counts(&resumed), counts(&whole));
            for at in 3..6 {
                let (expected, got) = (
                    step(&mut whole, &finetune, &samples, at),
                    step(&mut resumed, &finetune, &samples, at),
                );
                assert_eq!(got.to_bits(), expected.to_bits(), "loss of step {at}");
            }
            let got = weights(&resumed);
            assert!(weights(&whole).iter().all(|(name, weight)| weight.equal(&got[name])));
        }
    });
}

#[test]
fn moves_between_layouts() {
    within_limit(|| {
        let (tp2, tp2_dp2) = (ParallelSizes { tp: 2, ..ONE }, ParallelSizes { tp: 2, dp: 2, ..ONE });
        for (from, to) in [(ONE, tp2), (tp2, ONE), (tp2, tp2_dp2), (ONE, ParallelSizes { dp: 2, ..ONE })] {
            for with_adapters in [false, true] {
                let folder = tempfile::tempdir().unwrap();
                let mut finetune = saving();
                // The number of padding rows differs between layouts.
                finetune.model.as_llava_mut().unwrap().text_config.vocab_size = 200;
                if with_adapters {
                    lora(&mut finetune);
                }
                let on = |finetune: &Finetune, sizes: ParallelSizes, run: &str| -> RunReport {
                    let ranks = run_on(finetune, &folder.path().join(run), sizes, &Registry::builtin());
                    ranks.into_iter().next().unwrap().unwrap()
                };
                let expected = on(&finetune, from, "whole");
                finetune.resume.resume_from_path = Some(folder.path().join("whole").join(AFTER_3));
                let got = on(&finetune, to, "rest");
                close(&format!("{from:?} to {to:?}: loss"), &got.losses, &expected.losses[3..], 1e-5);
            }
        }
    });
}

#[test]
fn a_data_parallel_checkpoint_equals_that_of_one_rank() {
    within_limit(|| {
        let mut finetune = small();
        ddp(&mut finetune, false, false);
        finetune.model.as_llava_mut().unwrap().text_config.vocab_size = 200;
        let of = |sizes| {
            let folder = tempfile::tempdir().unwrap();
            on_mesh(sizes, |mesh| {
                saved(folder.path(), &trainer(&finetune, mesh), &finetune, 0, &Vec::new(), 10).unwrap()
            });
            files(folder.path())
        };
        let expected = of(ONE);
        assert_eq!(expected.len(), 5);
        assert!(of(ParallelSizes { dp: 2, ..ONE }) == expected);
    });
}

#[test]
fn if_exists_resumes_from_the_newest() {
    within_limit(|| {
        let folder = tempfile::tempdir().unwrap();
        let runs = folder.path().join("default");
        let mut finetune = saving();
        finetune.resume.resume_if_exists = true;
        let failure = run(&finetune, &runs.join("1")).unwrap_err();
        assert_eq!(failure.class, exit_class::INPUT);
        assert!(
            failure.to_string().contains("finetune.resume.resume_ignore_no_checkpoint=true"),
            "{failure}"
        );

        finetune.resume.resume_ignore_no_checkpoint = true;
        let first = run(&finetune, &runs.join("2")).unwrap();
        assert_eq!(first.losses.len(), 6);
        // A killed save of a later step: whole, but not published.
        let unfinished = runs.join("2/checkpoints/.default--step=8-consumed_samples=72.writing");
        crate::setting::copy(&runs.join("2").join(AFTER_6), &unfinished);
        let state = std::fs::read_to_string(unfinished.join("checkpoint.json"))
            .unwrap()
            .replace("\"steps_done\": 6", "\"steps_done\": 9");
        std::fs::write(unfinished.join("checkpoint.json"), state).unwrap();

        finetune.trainer.max_steps = Some(9);
        let second = run(&finetune, &runs.join("3")).unwrap();
        assert_eq!((second.steps, second.losses.len()), (9, 3), "resumes after step 6");
        finetune.trainer.max_steps = Some(10);
        let third = run(&finetune, &runs.join("4")).unwrap();
        assert_eq!((third.steps, third.losses.len()), (10, 1), "resumes after step 9");
        // The run is complete: it is refused, or, if that is accepted, nothing is trained and nothing is lost.
        let failure = run(&finetune, &runs.join("5")).unwrap_err();
        assert_eq!(failure.class, exit_class::INPUT);
        assert!(failure.to_string().contains("already done: 10 steps of 10"), "{failure}");
        finetune.resume.resume_past_end = true;
        let fourth = run(&finetune, &runs.join("6")).unwrap();
        assert_eq!((fourth.steps, fourth.losses.len()), (10, 0));
    });
}

/// Such a run would end at once, and leave nothing but a copy of the checkpoint.
#[test]
fn a_run_shorter_than_its_checkpoint_is_refused() {
    within_limit(|| {
        let folder = tempfile::tempdir().unwrap();
        let mut finetune = saving();
        run(&finetune, &folder.path().join("first")).unwrap();
        finetune.resume.resume_from_path = Some(folder.path().join("first").join(AFTER_3));
        finetune.trainer.max_steps = Some(2);
        let failure = run(&finetune, &folder.path().join("second")).unwrap_err();
        assert_eq!(failure.class, exit_class::INPUT);
        assert!(
            failure.to_string().contains("has done 3 steps, but this run ends after 2"),
            "{failure}"
        );
        finetune.trainer.max_steps = Some(3);
        let third = run(&finetune, &folder.path().join("third")).unwrap();
        assert_eq!((third.steps, third.losses.len()), (3, 0));
    });
}

#[test]
fn restoring_reads_the_weights_only() {
    within_limit(|| {
        let folder = tempfile::tempdir().unwrap();
        let mut finetune = saving();
        run(&finetune, &folder.path().join("first")).unwrap();
        let checkpoint = folder.path().join("first").join(AFTER_6);
        let expected = restored(&checkpoint, &finetune, Mesh::single());
        finetune.resume.restore_config = Some(RestoreConfig::weights(checkpoint.display().to_string()));
        let base = Base::of(&finetune, &no_cache()).unwrap();
        assert_eq!(base, Base::Checkpoint(checkpoint));
        let got = loaded(&finetune, &Mesh::single());
        for parameter in expected.parameters().iter() {
            assert!(
                got.parameters.get(&parameter.spec.name).unwrap().tensor.equal(&parameter.tensor),
                "{}",
                parameter.spec.name
            );
        }
        mock(&mut finetune).seed += 1;
        let report = run(&finetune, &folder.path().join("second")).unwrap();
        assert_eq!((report.steps, report.losses.len()), (6, 6), "starts at step 0");
    });
}
