//! Runs, steps and validations without a labelled token have no loss, and no metric is compared with it.

use crate::layout::{Layout, four_layers, pipeline};
use crate::setting::{ONE, close, json_lines, lay_out, names, preload, preloaded, run, run_on, small, validations, within_limit};
use neva_engine::checkpoint::CheckpointFolder;
use neva_engine::trainer::Registry;
use neva_schemas::{CallbackConfig, EarlyStoppingConfig, Finetune, METRICS_FILE, MetricMode, ParallelSizes, exit_class};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Returns a record whose answer follows a question of that many words.
fn record(id: usize, words: usize, answer: &str) -> Value {
    json!({
        "id": id,
        "conversations": [
            { "from": "human", "value": format!("What?{}", " word".repeat(words)) },
            { "from": "gpt", "value": answer },
        ],
    })
}

fn file(folder: &Path, name: &str, records: &[Value]) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, serde_json::to_vec(records).unwrap()).unwrap();
    path
}

/// Length limit of these tests: the answer to a short question lies before it, that to one of 200 words beyond it.
const SEQ_LENGTH: usize = 96;

/// Writes 4 records for each step, in order. All answers of the steps in `without` are truncated.
fn steps(folder: &Path, steps: usize, without: &[usize]) -> PathBuf {
    let words = |step: usize| if without.contains(&step) { 200 } else { 0 };
    let records: Vec<_> = (0..4 * steps).map(|id| record(id, words(id / 4), "A thing.")).collect();
    file(folder, "train.json", &records)
}

fn over(mut finetune: Finetune, records: &Path, max_steps: u64) -> Finetune {
    let data = preload(&mut finetune, records);
    (data.seq_length, data.shuffle, data.global_batch_size, data.micro_batch_size) = (SEQ_LENGTH, false, 4, 1);
    finetune.trainer.max_steps = Some(max_steps);
    finetune
}

fn stopping(monitor: &str) -> CallbackConfig {
    CallbackConfig::EarlyStopping(EarlyStoppingConfig {
        monitor: monitor.into(),
        mode: MetricMode::Min,
        patience: 2,
        min_delta: 0.0,
    })
}

#[test]
fn steps_have_no_loss_in_every_layout() {
    within_limit(|| {
        let folder = tempfile::tempdir().unwrap();
        let (without, labelled) = ([1, 4], [0, 2, 3, 5]);
        let mut finetune = over(four_layers(), &steps(folder.path(), 6, &without), 6);
        // 0 would be the lowest loss of all, and end the run two steps later.
        finetune.trainer.callbacks = vec![stopping("reduced_train_loss"), stopping("grad_norm")];
        *finetune.optim.lr_mut() = 1e-4;
        let dp2 = ParallelSizes { dp: 2, ..ONE };
        let layouts = [
            pipeline(1),
            pipeline(1).over(2, 1).sequence_parallel(),
            Layout::plain(dp2),
            Layout::plain(dp2).distributed(),
            pipeline(1).context(2),
            pipeline(2),
            pipeline(2).chunks(2).over(1, 2).distributed(),
        ];
        let mut expected: Option<Vec<f64>> = None;
        for (number, layout) in layouts.into_iter().enumerate() {
            let mut finetune = layout.of(&finetune);
            lay_out(&mut finetune, layout.sizes);
            let run_dir = folder.path().join(number.to_string());
            let losses = match run_on(&finetune, &run_dir, layout.sizes, &Registry::builtin()).remove(0) {
                Ok(report) => {
                    assert_eq!((report.steps, report.ended_early), (6, None), "{layout:?}");
                    report.losses
                }
                Err(error) => panic!("{layout:?}: {error}"),
            };
            for line in json_lines(&run_dir.join(METRICS_FILE)) {
                let step = line["step"].as_u64().unwrap() as usize;
                let has_labels = labelled.contains(&step);
                for key in ["reduced_train_loss", "grad_norm"] {
                    assert_eq!(line[key].is_null(), !has_labels, "{layout:?}: {key} in {line}");
                }
                assert_eq!(line["label_tokens"] != 0, has_labels, "{layout:?}: {line}");
                assert_eq!(losses[step].is_nan(), !has_labels, "{layout:?}: {losses:?}");
            }
            let losses: Vec<_> = labelled.iter().map(|step| losses[*step]).collect();
            match &expected {
                None => expected = Some(losses),
                Some(expected) => close(&format!("{layout:?}"), &losses, expected, 1e-5),
            }
        }
    });
}

/// Returns a run that validates on truncated answers after every step, saves the best, and stops without improvement.
fn validated(folder: &Path) -> Finetune {
    let mut finetune = over(small(), &steps(folder, 4, &[]), 4);
    let long: Vec<_> = (0..3).map(|id| record(id, 200, "A thing.")).collect();
    preloaded(&mut finetune).val_paths = vec![file(folder, "long.json", &long)];
    finetune.trainer.val_check_interval = Some(1);
    finetune.trainer.callbacks = vec![stopping("val_loss")];
    let ckpt = &mut finetune.log.ckpt;
    (ckpt.monitor, ckpt.save_top_k, ckpt.save_last) = ("val_loss".into(), 1, true);
    finetune
}

#[test]
fn a_validation_causes_no_save_and_no_stop() {
    within_limit(|| {
        for sizes in [ONE, ParallelSizes { pp: 2, ..ONE }, ParallelSizes { dp: 2, ..ONE }] {
            let folder = tempfile::tempdir().unwrap();
            let finetune = validated(folder.path());
            let run_dir = folder.path().join("run");
            let report = run_on(&finetune, &run_dir, sizes, &Registry::builtin()).remove(0).unwrap();
            assert_eq!((report.steps, report.ended_early), (4, None), "{sizes:?}");
            let lines = validations(&run_dir);
            assert_eq!(lines.len(), 4);
            for line in &lines {
                assert!(line["val_loss"].is_null(), "{line}");
                assert_eq!((&line["val_label_tokens"], &line["val_samples"]), (&json!(0), &json!(3)));
            }
            // Only the end of the run causes a save.
            assert_eq!(names(&run_dir.join("checkpoints")), ["default--step=3-consumed_samples=16-last"]);
        }
    });
}

#[test]
fn an_older_val_loss_does_not_replace_a_missing_one() {
    within_limit(|| {
        let folder = tempfile::tempdir().unwrap();
        let mut finetune = validated(folder.path());
        let long = std::mem::replace(&mut preloaded(&mut finetune).val_paths, vec![folder.path().join("train.json")]);
        let first = run(&finetune, &folder.path().join("first")).unwrap().checkpoint.unwrap();
        let progress = |path: &Path| CheckpointFolder::open(path).unwrap().state.progress;
        assert!(progress(&first).metrics.contains_key("val_loss"));
        preloaded(&mut finetune).val_paths = long;
        finetune.trainer.max_steps = Some(5);
        finetune.resume.resume_from_path = Some(first);
        finetune.resume.resume_past_end = true;
        let second = run(&finetune, &folder.path().join("second")).unwrap().checkpoint.unwrap();
        assert!(!progress(&second).metrics.contains_key("val_loss"), "{}", second.display());
        assert!(!second.to_string_lossy().contains("val_loss"), "{}", second.display());
    });
}

/// Returns the refusal of a run on these records, before any file is written.
#[track_caller]
fn refusal(folder: &Path, finetune: &Finetune) -> String {
    let run_dir = folder.join("refused");
    std::fs::create_dir_all(&run_dir).unwrap();
    let failure = run(finetune, &run_dir).unwrap_err();
    assert_eq!(failure.class, exit_class::INPUT, "{failure}");
    assert_eq!(names(&run_dir), ["failures.jsonl"], "the run began");
    failure.to_string()
}

#[test]
fn data_without_any_label_are_refused() {
    within_limit(|| {
        let folder = tempfile::tempdir().unwrap();
        // The nearest answer is that of record 1.
        let long: Vec<_> = [200, 150, 170]
            .into_iter()
            .zip(0..)
            .map(|(words, id)| record(id, words, "A thing."))
            .collect();
        let path = file(folder.path(), "long.json", &long);
        let mut finetune = over(small(), &path, 1);
        let message = refusal(folder.path(), &finetune);
        let expected =
            "finetune.data.seq_length: none of the 3 samples has a labelled token within its first 96 positions: there is nothing to learn";
        assert!(message.contains(expected), "{message}");
        assert!(
            message.contains("the first label of") && message.contains("long.json#1 (id 1) is the nearest"),
            "{message}"
        );
        let needed: usize = message
            .split_once("set it to ")
            .unwrap()
            .1
            .split(' ')
            .next()
            .unwrap()
            .parse()
            .unwrap();
        preloaded(&mut finetune).seq_length = needed - 1;
        refusal(folder.path(), &finetune);
        preloaded(&mut finetune).seq_length = needed;
        let run_dir = folder.path().join("long enough");
        run(&finetune, &run_dir).unwrap();
        // Four samples of three records; record 1 comes once, with its first label.
        assert_eq!(json_lines(&run_dir.join(METRICS_FILE))[0]["label_tokens"], 1);

        // One answer within the limit is enough, at any position.
        let mut records = long.clone();
        records.push(record(3, 0, "A thing."));
        let path = file(folder.path(), "one.json", &records);
        assert_eq!(run(&over(small(), &path, 1), &folder.path().join("one")).unwrap().steps, 1);
    });
}
