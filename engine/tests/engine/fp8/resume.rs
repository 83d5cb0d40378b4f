//! Checkpoints of runs in FP8.

use super::layouts::states;
use super::{in_fp8, small_fp8};
use crate::layout::{Layout, four_layers, pipeline};
use crate::own_family::registry;
use crate::setting::{
    ONE, Samples, bits, close, files, load, lora, microbatches, on_mesh, precision, run, run_on, saved, trainer, validate, within_limit,
};
use neva_engine::checkpoint::{CheckpointFolder, TensorFile, restore_fp8, restore_optimizer};
use neva_engine::comm::Axis;
use neva_engine::trainer::Trainer;
use neva_schemas::{Finetune, Fp8AmaxComputeAlgo, Fp8Recipe, MixedPrecision, Precision};
use std::path::Path;

fn with_history(plugin: &mut MixedPrecision) {
    (plugin.fp8_amax_history_len, plugin.fp8_amax_compute_algo) = (4, Fp8AmaxComputeAlgo::Max);
}

const MIDDLE: &str = "checkpoints/default--step=2-consumed_samples=24";
const LAST: &str = "checkpoints/default--step=5-consumed_samples=48-last";

#[test]
fn a_resumed_run_is_exact() {
    within_limit(|| {
        for (adapters, recipe) in [
            (false, Fp8Recipe::Delayed),
            (true, Fp8Recipe::Delayed),
            (false, Fp8Recipe::Tensorwise),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let (whole, rest) = (folder.path().join("whole"), folder.path().join("rest"));
            let mut finetune = small_fp8(|plugin| {
                plugin.fp8_recipe = recipe;
                if recipe == Fp8Recipe::Delayed {
                    with_history(plugin);
                }
            });
            if adapters {
                lora(&mut finetune);
            }
            finetune.log.ckpt.every_n_train_steps = Some(3);
            let expected = run(&finetune, &whole).unwrap();
            finetune.resume.resume_from_path = Some(whole.join(MIDDLE));
            let resumed = run(&finetune, &rest).unwrap();
            assert_eq!(bits(&resumed.losses), bits(&expected.losses)[3..], "{recipe:?}");
            let (expected, got) = (files(&whole.join(LAST)), files(&rest.join(LAST)));
            for file in ["model.safetensors", "optimizer.safetensors"] {
                assert!(got[Path::new(file)] == expected[Path::new(file)], "{recipe:?}: {file} differs");
            }
            let stored = TensorFile::open(&whole.join(LAST).join("optimizer.safetensors")).unwrap().tensors();
            let scales = stored.keys().filter(|name| name.ends_with(".fp8_scale")).count();
            assert_eq!(scales, if recipe == Fp8Recipe::Delayed { 14 } else { 0 });
        }
    });
}

#[test]
fn a_validation_changes_nothing() {
    within_limit(|| {
        let losses = |every: Option<u64>| {
            let mut finetune = small_fp8(with_history);
            if let Some(every) = every {
                validate(&mut finetune, every, 8);
            }
            let folder = tempfile::tempdir().unwrap();
            bits(&run(&finetune, folder.path()).unwrap().losses)
        };
        assert_eq!(losses(Some(1)), losses(None));
    });
}

/// Returns a trainer that resumes from a checkpoint.
fn resumed(finetune: &Finetune, checkpoint: &CheckpointFolder, mesh: neva_engine::comm::Mesh) -> Trainer {
    let trainer = Trainer::new(finetune, load(finetune, Some(checkpoint), &mesh), mesh).unwrap();
    let group = trainer.mesh().axis(Axis::Tensor);
    restore_optimizer(checkpoint, trainer.optimizer(), trainer.parameters(), (group.rank(), group.size())).unwrap();
    assert_eq!(restore_fp8(checkpoint, trainer.fp8().unwrap()).unwrap(), 0);
    trainer
}

#[test]
fn another_layout_resumes_with_the_same_scales() {
    within_limit(|| {
        let tp2 = Layout::plain(ONE).over(2, 1);
        let layouts = [
            Layout::plain(ONE),
            tp2.sequence_parallel(),
            pipeline(2).chunks(2),
            tp2.over(2, 2).distributed(),
            Layout::plain(ONE).context(2),
        ];
        // The language model alone is trained, or nothing of it: then most stages have scales and no weights to save.
        for frozen in [false, true] {
            let mut finetune = four_layers();
            in_fp8(&mut finetune, with_history);
            finetune.model.as_llava_mut().unwrap().freeze_language_model = frozen;
            let samples = Samples::of(&finetune);
            let folder = tempfile::tempdir().unwrap();
            let continued = |finetune: &Finetune, mut trainer: Trainer| -> Vec<f64> {
                let mesh = trainer.mesh().clone();
                let step = |step| {
                    trainer
                        .step(&microbatches(finetune, &samples, &mesh, step), |peak| peak, step)
                        .unwrap()
                        .loss
                        .unwrap()
                };
                (3..5).map(step).collect()
            };
            for (number, from) in layouts.into_iter().enumerate() {
                let alone = &from.of(&finetune);
                let parent = folder.path().join(format!("{frozen}-{number}"));
                std::fs::create_dir_all(&parent).unwrap();
                let before = on_mesh(from.sizes, |mesh| {
                    let mut trainer = trainer(alone, mesh.clone());
                    for step in 0..3 {
                        trainer
                            .step(&microbatches(alone, &samples, &mesh, step), |peak| peak, step)
                            .unwrap();
                    }
                    let path = saved(&parent, &trainer, alone, 3, &Vec::new(), 10).unwrap();
                    (path, states(&trainer), continued(alone, trainer))
                });
                let (path, losses) = (before[0].0.clone(), before[0].2.clone());
                let expected: super::layouts::States = before.into_iter().flat_map(|(_, states, _)| states).collect();
                let checkpoint = CheckpointFolder::open(&path).unwrap();
                let to = layouts[(number + 1) % layouts.len()];
                for to in [from, to] {
                    let finetune = &to.of(&finetune);
                    let ranks = on_mesh(to.sizes, |mesh| {
                        let trainer = resumed(finetune, &checkpoint, mesh);
                        (states(&trainer), continued(finetune, trainer))
                    });
                    for (states, got) in ranks {
                        for (linear, state) in states {
                            assert!(state == expected[&linear], "{from:?} to {to:?}: other scales of `{linear}`");
                        }
                        match to.sizes == from.sizes && to.chunks == from.chunks {
                            true => assert_eq!(bits(&got), bits(&losses), "{from:?} to {to:?}"),
                            false => close(&format!("{from:?} to {to:?}"), &got, &losses, 1e-3),
                        }
                    }
                }
            }
        }
    });
}

#[test]
fn a_checkpoint_without_scales_starts_them_anew() {
    within_limit(|| {
        let folder = tempfile::tempdir().unwrap();
        let (before, after) = (folder.path().join("before"), folder.path().join("after"));
        let mut finetune = small_fp8(|_| {});
        precision(&mut finetune, Precision::Bf16Mixed);
        finetune.log.ckpt.every_n_train_steps = Some(3);
        run(&finetune, &before).unwrap();
        let checkpoint = CheckpointFolder::open(&before.join(MIDDLE)).unwrap();
        in_fp8(&mut finetune, |_| {});
        on_mesh(ONE, |mesh| {
            let trainer = trainer(&finetune, mesh);
            assert_eq!(restore_fp8(&checkpoint, trainer.fp8().unwrap()).unwrap(), 14);
            assert!(states(&trainer).values().all(|[scale, _]| scale == &[1.0; 3]));
        });
        finetune.resume.resume_from_path = Some(before.join(MIDDLE));
        assert_eq!(run(&finetune, &after).unwrap().losses.len(), 3);
    });
}

#[test]
fn whole_runs_write_scales_in_shards() {
    within_limit(|| {
        let folder = tempfile::tempdir().unwrap();
        let mut finetune = small_fp8(with_history);
        finetune.log.ckpt.every_n_train_steps = Some(3);
        let layout = pipeline(2);
        let finetune = layout.of(&finetune);
        for report in run_on(&finetune, folder.path(), layout.sizes, &registry()) {
            report.unwrap();
        }
        let checkpoint = CheckpointFolder::open(&folder.path().join(LAST)).unwrap();
        checkpoint.verify().unwrap();
        let stored = checkpoint.optimizer().unwrap();
        let histories: Vec<_> = stored.shapes().filter(|(name, _)| name.ends_with(".fp8_amax_history")).collect();
        assert_eq!(histories.len(), 14);
        assert!(histories.iter().all(|(_, shape)| *shape == [3, 4]));
    });
}
