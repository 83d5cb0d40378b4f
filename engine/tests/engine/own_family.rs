//! A custom model family: two files of the examples, and one line in the registry of the rank program.

use crate::distributed::ddp;
use crate::layout::mixed;
use crate::own_vision;
use crate::recompute::{recompute_settings, with_recompute};
use crate::setting::{
    ONE, Samples, adapters, bits, close, close_tensors, export_hf, microbatches, no_cache, run_on, small, train, trainer, within_limit,
};
use neva_engine::checkpoint::{Base, CheckpointFolder, Sources};
use neva_engine::comm::Mesh;
use neva_engine::model::Models;
use neva_engine::trainer::{LoadedModel, Registry};
use neva_schemas::{CustomFamily, Finetune, ParallelSizes, RestoreConfig, TextModelType};
use tch::Device;

#[expect(unreachable_pub, reason = "a file of the examples, public there")]
#[path = "../../../examples/family/layout.rs"]
mod layout;
#[expect(unreachable_pub, reason = "a file of the examples, public there")]
#[path = "../../../examples/family/model.rs"]
mod model;

const STEPS: u64 = 6;
const TP2: ParallelSizes = ParallelSizes { tp: 2, ..ONE };
const PP2: ParallelSizes = ParallelSizes { pp: 2, ..ONE };

/// Returns the registry of the rank program with the custom families.
pub(crate) fn registry() -> Registry {
    own_vision::added(Registry::builtin().decoder(layout::NAME, &layout::Parallel, model::build))
}

/// Returns a small run with a decoder of the family.
fn finetune() -> Finetune {
    let mut finetune = small();
    let text = &mut finetune.model.as_llava_mut().unwrap().text_config;
    text.model_type = Some(TextModelType::Custom(CustomFamily::named(layout::NAME)));
    finetune
}

#[track_caller]
fn check(name: &str, layouts: &[ParallelSizes], change: impl FnOnce(&mut Finetune)) {
    let mut finetune = finetune();
    change(&mut finetune);
    let samples = Samples::edited(&finetune, mixed);
    let expected = train(&finetune, &samples, ONE, STEPS);
    assert!(
        expected.losses.iter().all(|loss| loss.is_finite() && *loss > 0.0),
        "{name}: {:?}",
        expected.losses
    );
    for sizes in layouts {
        for sequence_parallel in [false, sizes.tp > 1] {
            finetune.trainer.strategy.sequence_parallel = sequence_parallel;
            let got = train(&finetune, &samples, *sizes, STEPS);
            let name = format!("{name}, {sizes:?}, sequence parallel: {sequence_parallel}");
            close(&format!("{name}: loss"), &got.losses, &expected.losses, 1e-5);
            close_tensors(&name, &got.weights, &expected.weights, 1e-4);
        }
    }
}

#[test]
fn learns() {
    within_limit(|| {
        let finetune = finetune();
        let samples = Samples::of(&finetune);
        let mut trainer = trainer(&finetune, Mesh::single());
        let batches = microbatches(&finetune, &samples, &Mesh::single(), 0);
        let losses: Vec<_> = (0..8)
            .map(|step| trainer.step(&batches, |_| 5e-3, step).unwrap().loss.unwrap())
            .collect();
        assert!(losses[7] < 0.9 * losses[0], "{losses:?}");
    });
}

#[test]
fn trains_in_every_layout_as_on_one_rank() {
    within_limit(|| {
        let all = [
            TP2,
            PP2,
            ParallelSizes { cp: 2, ..ONE },
            ParallelSizes { dp: 2, ..ONE },
            ParallelSizes { tp: 2, pp: 2, ..ONE },
        ];
        check("whole model", &all, |_| {});
        check("adapters", &[TP2, PP2], |finetune| {
            adapters(finetune, &["q", "fc_in", "fc_out", "linear_1"])
        });
        // More ranks than key heads.
        check("copied heads", &[ParallelSizes { tp: 4, ..ONE }], |_| {});
    });
}

/// Blocks wait for gathered weights and are recomputed without code in the family.
#[test]
fn overlap_and_recomputation_change_no_bit() {
    within_limit(|| {
        let mut finetune = finetune();
        // Every parameter is sent separately: one that is used before its gather has old values.
        finetune.trainer.strategy.ddp.bucket_size = 1;
        let samples = Samples::edited(&finetune, mixed);
        let sizes = ParallelSizes { dp: 2, ..ONE };
        ddp(&mut finetune, true, false);
        let expected = train(&finetune, &samples, sizes, STEPS);
        ddp(&mut finetune, true, true);
        assert_eq!(
            bits(&train(&finetune, &samples, sizes, STEPS).losses),
            bits(&expected.losses),
            "overlap"
        );
        for way in recompute_settings() {
            let got = train(&with_recompute(&finetune, &way), &samples, sizes, STEPS);
            assert_eq!(bits(&got.losses), bits(&expected.losses), "{way:?}");
        }
    });
}

/// A run of the family is saved, exported under its Hugging Face names, and read again.
#[test]
fn is_saved_exported_and_read_again() {
    within_limit(|| {
        let folder = tempfile::tempdir().unwrap();
        let mut finetune = finetune();
        finetune.trainer.max_steps = Some(2);
        let reports = run_on(&finetune, &folder.path().join("run"), TP2, &registry());
        let checkpoint = CheckpointFolder::find(&reports[0].as_ref().unwrap().run_dir).unwrap();
        let out = folder.path().join("out");
        export_hf(&checkpoint.path, &out, registry().models()).unwrap();
        let config: serde_json::Value = serde_json::from_slice(&std::fs::read(out.join("config.json")).unwrap()).unwrap();
        assert_eq!(config["text_config"]["model_type"], "parallel");

        let mut again = finetune.clone();
        again.resume.restore_config = Some(RestoreConfig::weights(out.display().to_string()));
        let weights = |finetune: &Finetune, checkpoint| {
            let (base, cache) = (Base::of(finetune, &no_cache()).unwrap(), no_cache());
            let sources = Sources {
                checkpoint,
                adapter: None,
                base: &base,
                cache: &cache,
            };
            LoadedModel::load(finetune, registry().models(), sources, &Mesh::single(), Device::Cpu).unwrap()
        };
        let (saved, read) = (weights(&finetune, Some(&checkpoint)), weights(&again, None));
        for (saved, read) in saved.parameters.iter().zip(read.parameters.iter()) {
            assert!(saved.tensor.equal(&read.tensor), "{}", saved.spec.name);
        }
    });
}

#[test]
fn another_rank_program_reports_the_missing_family() {
    let cache = no_cache();
    let finetune = finetune();
    let base = Base::of(&finetune, &cache).unwrap();
    let sources = Sources {
        checkpoint: None,
        adapter: None,
        base: &base,
        cache: &cache,
    };
    let error = LoadedModel::load(&finetune, &Models::builtin(), sources, &Mesh::single(), Device::Cpu).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("finetune.model.text_config.model_type: this program has no model family `own::Parallel`"),
        "{text}"
    );
}
