//! Validations: their measurements, that they change nothing, and the checkpoints that they cause.

use crate::setting::{
    ONE, bits, close, json_lines, load, lora, names, preload, preloaded, run, run_on, small, tiny, validate, validations, within_limit,
};
use neva_data::Batch;
use neva_engine::checkpoint::CheckpointFolder;
use neva_engine::comm::Mesh;
use neva_engine::trainer::{Evaluation, Microbatch, Registry, Trainer, merge_options, run_data, to_device};
use neva_schemas::{Finetune, METRICS_FILE, MetricMode, ParallelSizes};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use tch::Device;

/// Computes the loss of a checkpoint on the first `samples` of its run's validation data, one by one.
fn by_hand(checkpoint: &Path, samples: usize) -> Evaluation {
    let checkpoint = CheckpointFolder::open(checkpoint).unwrap();
    let finetune = &checkpoint.run.finetune;
    let mesh = Mesh::single();
    let trainer = Trainer::new(finetune, load(finetune, Some(&checkpoint), &mesh), mesh).unwrap();
    let options = merge_options(finetune);
    let data = run_data(finetune, None).unwrap().val.unwrap();
    let batches = (0..samples).map(|index| {
        let batch = Batch::collate(&[data.get(index).unwrap()], &options).unwrap();
        let tokens = batch.tokens.seq_lens()[0] as u64;
        Ok((
            Microbatch::of(to_device(&batch, options.image_seq_len, Device::Cpu).unwrap(), tokens),
            1,
        ))
    });
    trainer.evaluate(batches).unwrap()
}

/// Returns the values of a validation's line.
fn measured(line: &Value) -> (f64, u64, u64) {
    let count = |key: &str| line[key].as_u64().unwrap();
    assert!(line["validation_timing in s"].as_f64().unwrap() > 0.0);
    (line["val_loss"].as_f64().unwrap(), count("val_label_tokens"), count("val_samples"))
}

/// Runs, and compares the last validation with that by hand. Returns the numbers of samples of all validations.
#[track_caller]
fn check_last(finetune: &Finetune, run_dir: &Path, sizes: ParallelSizes) -> Vec<f64> {
    let report = run_on(finetune, run_dir, sizes, &Registry::builtin()).remove(0).unwrap();
    let lines = validations(run_dir);
    let (loss, labels, samples) = measured(lines.last().unwrap());
    let expected = by_hand(&report.checkpoint.unwrap(), samples as usize);
    assert_eq!((labels, samples), (expected.labels, expected.samples));
    close("val_loss", &[loss], &[expected.loss_sum / expected.labels as f64], 1e-5);
    lines.iter().map(|line| measured(line).0).collect()
}

#[test]
fn is_the_mean_over_all_labelled_tokens_in_every_layout() {
    within_limit(|| {
        let folder = tempfile::tempdir().unwrap();
        // 11 samples: one whole global batch, and one that is incomplete both on one rank and on two.
        for (limit, samples) in [(None, 11), (Some(1), 8), (Some(7), 11)] {
            let mut finetune = small();
            validate(&mut finetune, 2, 11);
            finetune.trainer.limit_val_batches = limit;
            let on = |name: &str, sizes| {
                let run_dir = folder.path().join(format!("{name}, {limit:?}"));
                let losses = check_last(&finetune, &run_dir, sizes);
                let lines = validations(&run_dir);
                let of = |key: &str| lines.iter().map(|line| line[key].as_u64().unwrap()).collect::<Vec<_>>();
                assert_eq!((of("step"), of("val_samples")), (vec![1, 3, 5], vec![samples; 3]), "{name}");
                losses
            };
            let expected = on("one", ONE);
            close(
                "two data-parallel ranks",
                &on("dp", ParallelSizes { dp: 2, ..ONE }),
                &expected,
                1e-5,
            );
            close(
                "two tensor-parallel ranks",
                &on("tp", ParallelSizes { tp: 2, ..ONE }),
                &expected,
                1e-5,
            );
        }
    });
}

#[test]
fn needs_data_and_an_interval() {
    within_limit(|| {
        let folder = tempfile::tempdir().unwrap();
        let check = |name: &str, change: fn(&mut Finetune)| {
            let mut finetune = small();
            validate(&mut finetune, 2, 11);
            change(&mut finetune);
            run(&finetune, &folder.path().join(name)).unwrap();
            assert_eq!(validations(&folder.path().join(name)), Vec::<Value>::new(), "{name}");
        };
        check("no samples", |finetune| validate(finetune, 2, 0));
        check("no interval", |finetune| finetune.trainer.val_check_interval = None);
        check("no batches", |finetune| finetune.trainer.limit_val_batches = Some(0));
        check("too short", |finetune| finetune.trainer.val_check_interval = Some(7));
        check("no records", |finetune| {
            preload(finetune, &photos());
        });
    });
}

#[test]
fn does_not_change_the_training() {
    within_limit(|| {
        let change: [fn(&mut Finetune); 2] = [|_| {}, lora];
        for change in change {
            let folder = tempfile::tempdir().unwrap();
            let mut finetune = small();
            change(&mut finetune);
            let mut with = |every: u64| {
                validate(&mut finetune, every, 5);
                let report = run(&finetune, &folder.path().join(every.to_string())).unwrap();
                let file = |name: &str| std::fs::read(report.checkpoint.as_ref().unwrap().join(name)).unwrap();
                (bits(&report.losses), file("model.safetensors"), file("optimizer.safetensors"))
            };
            let expected = with(100);
            for every in [1, 4] {
                assert!(with(every) == expected, "a validation every {every} steps");
            }
        }
    });
}

fn photos() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/photos/photos.json")
}

#[test]
fn of_held_out_records() {
    within_limit(|| {
        let folder = tempfile::tempdir().unwrap();
        let mut finetune = tiny();
        preload(&mut finetune, &photos()).val_split = 0.3;
        finetune.trainer.max_steps = Some(2);
        finetune.trainer.val_check_interval = Some(1);
        let data = run_data(&finetune, None).unwrap();
        let val = data.val.unwrap();
        let of = |data: &dyn neva_data::Dataset| (0..data.len()).map(|index| data.name(index)).collect::<BTreeSet<_>>();
        let (trained, held_out) = (of(&*data.train), of(&*val));
        let all: Vec<Value> = serde_json::from_slice(&std::fs::read(photos()).unwrap()).unwrap();
        assert!(trained.is_disjoint(&held_out));
        assert_eq!(held_out.len(), (0.3 * all.len() as f64).round() as usize);
        assert_eq!(trained.len() + held_out.len(), all.len());
        // Answers differ in length, so the mean of the samples' means differs.
        check_last(&finetune, &folder.path().join("split"), ONE);
        assert_eq!(measured(&validations(&folder.path().join("split"))[0]).2, held_out.len() as u64);
    });
}

#[test]
fn of_records_in_separate_files() {
    within_limit(|| {
        let folder = tempfile::tempdir().unwrap();
        let records: Vec<Value> = serde_json::from_slice(&std::fs::read(photos()).unwrap()).unwrap();
        let file = |name: &str, records: &[Value]| {
            let path = folder.path().join(name);
            std::fs::write(&path, serde_json::to_vec(records).unwrap()).unwrap();
            path
        };
        let mut finetune = tiny();
        let data = preload(&mut finetune, &photos());
        data.data_config.image_folder = photos().parent().map(Path::to_owned);
        data.val_paths = vec![file("a.json", &records[3..5]), file("b.json", &records[..1])];
        finetune.trainer.max_steps = Some(2);
        finetune.trainer.val_check_interval = Some(2);
        check_last(&finetune, &folder.path().join("files"), ParallelSizes { dp: 2, ..ONE });
        let lines = validations(&folder.path().join("files"));
        assert_eq!((lines.len(), measured(&lines[0]).2), (1, 3));
        preloaded(&mut finetune).val_paths.push(folder.path().join("none.json"));
        let failure = run(&finetune, &folder.path().join("missing")).unwrap_err();
        assert!(failure.to_string().contains("none.json"), "{failure}");
    });
}

/// Checks a run of eight steps that saves only after validations and at its end.
fn check_best(mode: MetricMode, top: i64, last: bool) {
    let folder = tempfile::tempdir().unwrap();
    let mut finetune = small();
    validate(&mut finetune, 1, 3);
    finetune.trainer.max_steps = Some(8);
    // The rate is far too high: the loss goes up and down.
    *finetune.optim.lr_mut() = 3e-2;
    let ckpt = &mut finetune.log.ckpt;
    (ckpt.monitor, ckpt.mode, ckpt.save_top_k, ckpt.save_last) = ("val_loss".into(), mode, top, last);
    let report = run(&finetune, folder.path()).unwrap();
    let losses: Vec<_> = validations(folder.path()).iter().map(|line| measured(line).0).collect();
    let mut best: Vec<_> = (0..8).collect();
    best.sort_by(|a, b| losses[*a].total_cmp(&losses[*b]));
    if mode == MetricMode::Max {
        best.reverse();
    }
    best.truncate(top as usize);
    assert!(best[0] != 7, "the best comes last: {losses:?}");
    let name = |step: usize| {
        format!(
            "default--val_loss={:.2}-step={step}-consumed_samples={}",
            losses[step],
            8 * (step + 1)
        )
    };
    let mut expected: Vec<_> = best.iter().filter(|step| **step != 7 || !last).map(|step| name(*step)).collect();
    if last {
        expected.push(name(7) + "-last");
    }
    expected.sort();
    assert_eq!(names(&folder.path().join("checkpoints")), expected, "{mode:?}, {losses:?}");
    for step in best {
        let at = |suffix: &str| folder.path().join("checkpoints").join(name(step) + suffix);
        let path = if at("").exists() { at("") } else { at("-last") };
        let progress = CheckpointFolder::open(&path).unwrap().state.progress;
        assert_eq!(progress.metrics["val_loss"].to_bits(), losses[step].to_bits());
    }
    assert_eq!(json_lines(&folder.path().join(METRICS_FILE)).len(), 16);
    assert_eq!(report.steps, 8);
}

#[test]
fn the_best_checkpoints_are_kept() {
    within_limit(|| {
        check_best(MetricMode::Min, 2, true);
        check_best(MetricMode::Min, 1, true);
        check_best(MetricMode::Max, 3, true);
    });
}

#[test]
fn without_a_last_one_only_the_best_are_kept() {
    within_limit(|| {
        check_best(MetricMode::Min, 2, false);
    });
}
