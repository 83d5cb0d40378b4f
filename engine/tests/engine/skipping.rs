//! Non-finite losses and loss spikes: steps are skipped if the policy says so, and reported with their samples.

use crate::setting::{
    ONE, Samples, bits, json_lines, microbatches, on_mesh, preload, preloaded, reseal, rewrite, run, run_on, small, trainer, weights,
    within_limit,
};
use neva_data::{BatchSampler, Order};
use neva_engine::optim::OptimizerShard;
use neva_engine::trainer::{Registry, Trainer, run_data};
use neva_schemas::{Finetune, METRICS_FILE, NanPolicy, ParallelSizes, REPORT_FILE, RunReport, exit_class};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use tch::Tensor;

/// An image of the second batch is not finite.
fn poisoned(index: usize, sample: &mut neva_data::Sample) {
    if index == 11 {
        sample.images[0].chw[5] = f32::NAN;
    }
}

/// Returns weights, moments and step counts.
fn state(trainer: &Trainer) -> BTreeMap<String, Vec<Tensor>> {
    let weights = weights(trainer);
    let of = |piece: OptimizerShard<'_>| {
        let (name, moments) = (&piece.spec.name, piece.moments.iter().map(|(_, moment)| moment.copy()));
        (
            name.clone(),
            [weights[name].copy(), piece.step.copy()].into_iter().chain(moments).collect(),
        )
    };
    trainer.optimizer().shards().map(of).collect()
}

#[track_caller]
fn same(what: &str, got: &BTreeMap<String, Vec<Tensor>>, expected: &BTreeMap<String, Vec<Tensor>>) {
    for (name, expected) in expected {
        assert!(expected.iter().zip(&got[name]).all(|(a, b)| a.equal(b)), "{what}: {name} differs");
    }
}

#[test]
fn a_skipped_step_changes_nothing() {
    within_limit(|| {
        let mut finetune = small();
        finetune.trainer.nan_policy = NanPolicy::Skip;
        let samples = Samples::edited(&finetune, poisoned);
        for sizes in [ONE, ParallelSizes { tp: 2, ..ONE }, ParallelSizes { dp: 2, ..ONE }] {
            // Every rank skips the step, also for an image of another rank.
            on_mesh(sizes, |mesh| {
                let (mut trainer, mut other) = (trainer(&finetune, mesh.clone()), trainer(&finetune, mesh.clone()));
                let step = |trainer: &mut Trainer, step| {
                    trainer
                        .step(&microbatches(&finetune, &samples, &mesh, step), |_| 1e-2, step)
                        .unwrap()
                };
                assert!(step(&mut trainer, 0).applied);
                let before = state(&trainer);
                let skipped = step(&mut trainer, 1);
                assert!(!skipped.applied && skipped.loss.is_some_and(f64::is_nan), "{skipped:?}");
                same("the skipped step", &state(&trainer), &before);
                assert!(step(&mut trainer, 2).applied);
                step(&mut other, 0);
                step(&mut other, 2);
                same("the step after it", &state(&trainer), &state(&other));
            });
        }
    });
}

/// Returns a run on black images, and a white one that is infinitely bright.
fn bright(folder: &Path, records: usize, white: usize) -> Finetune {
    let bmp = |name: &str, byte: u8| std::fs::write(folder.join(name), bitmap(byte)).unwrap();
    bmp("black.bmp", 0);
    bmp("white.bmp", 255);
    let processor = json!({
        "image_processor_type": "CLIPImageProcessor",
        "size": { "shortest_edge": 28 },
        "crop_size": { "height": 28, "width": 28 },
        "image_mean": [0.0, 0.0, 0.0],
        "image_std": [1e-39, 1e-39, 1e-39],
    });
    std::fs::write(folder.join("preprocessor_config.json"), processor.to_string()).unwrap();
    let record = |index: usize| {
        let image = if index == white { "white.bmp" } else { "black.bmp" };
        json!({
            "id": format!("record {index}"),
            "image": image,
            "conversations": [{ "from": "human", "value": "<image>\nWhat is it?" }, { "from": "gpt", "value": "A colour." }],
        })
    };
    let mut finetune = records_of(folder, (0..records).map(record).collect());
    preloaded(&mut finetune).image_processor = Some(folder.join("preprocessor_config.json"));
    finetune
}

/// Returns a bitmap of 2 x 2 pixels with rows aligned to 4 bytes.
fn bitmap(byte: u8) -> Vec<u8> {
    let mut bytes = b"BM".to_vec();
    for word in [70u32, 0, 54, 40, 2, 2, 1 | 24 << 16, 0, 16, 2835, 2835, 0, 0] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend([byte, byte, byte, byte, byte, byte, 0, 0].repeat(2));
    bytes
}

/// Returns a run on records in batches of 8.
fn records_of(folder: &Path, records: Vec<Value>) -> Finetune {
    let path = folder.join("records.json");
    std::fs::write(&path, serde_json::to_vec(&records).unwrap()).unwrap();
    let mut finetune = small();
    preload(&mut finetune, &path);
    finetune
}

/// Returns the names of each step's samples.
fn names(finetune: &Finetune) -> Vec<Vec<String>> {
    let data = run_data(finetune, None).unwrap().train;
    let order = Order {
        seed: finetune.data.seed(),
        len: data.len() as u64,
        shuffle: true,
    };
    let slice = BatchSampler {
        global_batch_size: finetune.data.global_batch_size(),
        micro_batch_size: 1,
        data_parallel_size: 1,
        data_parallel_rank: 0,
    };
    let steps = 0..finetune.trainer.max_steps.unwrap();
    let of = |step| slice.global_batch(&order, step * slice.global_batch_size);
    steps
        .map(|step| of(step).into_iter().map(|index| data.name(index as usize)).collect())
        .collect()
}

#[test]
fn a_run_skips_counts_and_names_the_samples() {
    within_limit(|| {
        for sizes in [ONE, ParallelSizes { dp: 2, ..ONE }] {
            let folder = tempfile::tempdir().unwrap();
            let run_dir = folder.path().join("run");
            // Two epochs of three steps: the white image occurs once in each.
            let mut finetune = bright(folder.path(), 24, 13);
            finetune.trainer.nan_policy = NanPolicy::Skip;
            let names = names(&finetune);
            let white: Vec<_> = names
                .iter()
                .map(|names| names.iter().any(|name| name.contains("(id record 13)")))
                .collect();
            assert_eq!(white.iter().filter(|white| **white).count(), 2);
            let mut losses = Vec::new();
            for report in run_on(&finetune, &run_dir, sizes, &Registry::builtin()) {
                losses.push(report.unwrap().losses);
            }
            assert!(losses.iter().all(|other| bits(other) == bits(&losses[0])));
            assert_eq!(losses[0].iter().map(|loss| !loss.is_finite()).collect::<Vec<_>>(), white);
            let mut skipped = 0;
            for (line, white) in json_lines(&run_dir.join(METRICS_FILE)).iter().zip(&white) {
                skipped += u64::from(*white);
                assert_eq!(line["skipped_steps"], skipped);
                assert_eq!(line["reduced_train_loss"].is_null(), *white);
            }
            assert_eq!(skipped, 2);
            let spikes = json_lines(&run_dir.join("spikes.jsonl"));
            let expected: Vec<_> = (0..6).filter(|step| white[*step]).collect();
            assert_eq!(
                spikes
                    .iter()
                    .map(|spike| spike["step"].as_u64().unwrap() as usize)
                    .collect::<Vec<_>>(),
                expected
            );
            for (spike, step) in spikes.iter().zip(expected) {
                assert_eq!(spike["samples"], json!(names[step]));
            }
            // The launcher reads it.
            let report: RunReport = serde_json::from_slice(&std::fs::read(run_dir.join(REPORT_FILE)).unwrap()).unwrap();
            assert_eq!(report.losses.iter().map(|loss| loss.is_nan()).collect::<Vec<_>>(), white);
        }
    });
}

#[test]
fn without_the_skip_policy_the_run_fails() {
    within_limit(|| {
        let folder = tempfile::tempdir().unwrap();
        let finetune = bright(folder.path(), 24, 13);
        let step = names(&finetune)
            .iter()
            .position(|names| names.iter().any(|name| name.contains("(id record 13)")))
            .unwrap();
        let failure = run(&finetune, &folder.path().join("run")).unwrap_err();
        assert_eq!((failure.class, failure.step), (exit_class::JOB, Some(step as u64)));
        assert_eq!(failure.chain, [format!("step {step}: the loss is NaN")]);
    });
}

#[test]
fn ten_skipped_steps_in_a_row_end_the_run() {
    within_limit(|| {
        for sizes in [ONE, ParallelSizes { dp: 2, ..ONE }] {
            let folder = tempfile::tempdir().unwrap();
            let mut finetune = small();
            finetune.trainer.max_steps = Some(2);
            let checkpoint = run(&finetune, &folder.path().join("first")).unwrap().checkpoint.unwrap();
            rewrite(&checkpoint.join("model.safetensors"), |tensors| {
                let (_, weight) = tensors
                    .iter_mut()
                    .find(|(name, _)| name == "model.language_model.norm.weight")
                    .unwrap();
                // Its products overflow.
                let _ = weight.fill_(f64::from(f32::MAX));
            });
            reseal(&checkpoint);
            finetune.trainer.max_steps = Some(30);
            finetune.trainer.nan_policy = NanPolicy::Skip;
            finetune.resume.resume_from_path = Some(checkpoint);
            let run_dir = folder.path().join("second");
            for outcome in run_on(&finetune, &run_dir, sizes, &Registry::builtin()) {
                let error = outcome.unwrap_err();
                assert_eq!(
                    (error.to_string().as_str(), error.exit_code()),
                    ("step 11: the loss of ten steps in a row is NaN", exit_class::JOB)
                );
            }
            let skipped: Vec<_> = json_lines(&run_dir.join(METRICS_FILE))
                .iter()
                .map(|line| line["skipped_steps"].as_u64().unwrap())
                .collect();
            assert_eq!(skipped, (1..10).collect::<Vec<_>>());
        }
    });
}

/// Steps of a run, and the step of the odd sample: by then the last 64 losses are nearly constant.
const STEPS: u64 = 120;
const ODD: u64 = 110;

#[test]
fn a_loss_spike_is_reported() {
    within_limit(|| {
        let folder = tempfile::tempdir().unwrap();
        // Two records a step, all equal but one, which occurs when the others are learnt.
        let record = |id: u64, answer: &str| {
            json!({
                "id": format!("record {id}"),
                "conversations": [{ "from": "human", "value": "What is it?" }, { "from": "gpt", "value": answer }],
            })
        };
        let mut records: Vec<_> = (0..2 * STEPS).map(|id| record(id, "A thing.")).collect();
        let mut finetune = records_of(folder.path(), records.clone());
        let data = preloaded(&mut finetune);
        data.global_batch_size = 2;
        data.micro_batch_size = 1;
        finetune.trainer.max_steps = Some(STEPS);
        let order = Order {
            seed: finetune.data.seed(),
            len: 2 * STEPS,
            shuffle: true,
        };
        let odd = order.index(2 * ODD + 1);
        records[odd as usize] = record(odd, "Seventeen elephants who read newspapers.");
        records_of(folder.path(), records);
        finetune.trainer.loss_spike_threshold = Some(6.0);
        let report = run(&finetune, &folder.path().join("run")).unwrap();
        let spikes = json_lines(&folder.path().join("run/spikes.jsonl"));
        assert_eq!(spikes.len(), 1, "{spikes:?}");
        assert_eq!(
            (&spikes[0]["step"], &spikes[0]["samples"]),
            (&json!(ODD), &json!(names(&finetune)[ODD as usize]))
        );
        assert!(
            spikes[0]["samples"][1].as_str().unwrap().ends_with(&format!("(id record {odd})")),
            "{spikes:?}"
        );
        assert_eq!(spikes[0]["loss"].as_f64(), Some(report.losses[ODD as usize]));
        let recent = &report.losses[ODD as usize - 64..ODD as usize];
        let mean = recent.iter().sum::<f64>() / 64.0;
        crate::setting::close("mean", &[spikes[0]["mean"].as_f64().unwrap()], &[mean], 1e-9);
        // The same run without spike detection.
        finetune.trainer.loss_spike_threshold = None;
        let quiet = run(&finetune, &folder.path().join("quiet")).unwrap();
        assert_eq!(bits(&quiet.losses), bits(&report.losses));
        assert!(!folder.path().join("quiet/spikes.jsonl").exists());
    });
}
