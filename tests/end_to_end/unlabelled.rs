//! Output of steps and validations without a labelled token.

use neva_tests::{Ended, neva_run, run, run_folder};
use serde_json::{Value, json};
use std::path::Path;

/// Writes one record per step; `within` says if its answer is before the truncation.
fn records(folder: &Path, name: &str, within: &[bool]) {
    let words = |within: bool| if within { 0 } else { 300 };
    let record = |(id, within): (usize, &bool)| {
        json!({ "id": id, "conversations": [
            { "from": "human", "value": format!("What?{}", " word".repeat(words(*within))) },
            { "from": "gpt", "value": "A thing." },
        ] })
    };
    let records: Vec<_> = within.iter().enumerate().map(record).collect();
    std::fs::write(folder.join(name), serde_json::to_vec(&records).unwrap()).unwrap();
}

fn train(folder: &Path) -> Ended {
    let recipe = format!(
        "
_factory_: neva_tiny
dir: {0}
name: unlabelled
finetune:
  data:
    _target_: vlm.NevaPreloadedDataModule
    paths: {0}/train.json
    val_paths: {0}/val.json
    tokenizer: builtin:mistral_2k
    seq_length: 128
    global_batch_size: 1
    micro_batch_size: 1
    num_workers: 0
    shuffle: false
  trainer:
    max_steps: 4
    val_check_interval: 1
    callbacks:
      - {{_target_: nl.EarlyStopping, monitor: val_loss, patience: 1}}
  log: {{ckpt: {{monitor: val_loss, save_top_k: 1}}}}
",
        folder.display()
    );
    let path = folder.join("recipe.yaml");
    std::fs::write(&path, recipe).unwrap();
    run(neva_run(&[path.to_str().unwrap()]))
}

#[test]
fn missing_labels_are_reported_once_and_shown_without_a_number() {
    let folder = tempfile::tempdir().unwrap();
    records(folder.path(), "train.json", &[true, false, false, true]);
    records(folder.path(), "val.json", &[false; 10]);
    let ended = train(folder.path()).with_code(0);
    let all = format!("{}{}", ended.stdout, ended.stderr);
    for (text, times) in [
        ("step 2: none of the 1 samples has a labelled token", 1),
        // As the first truncated sample, and as the first one without a label.
        ("train.json#1 (id 1)", 2),
        ("train.json#2", 0),
        ("none of the 10 validation samples has a labelled token", 1),
        ("val.json#7 (id 7) and 2 more", 1),
        ("val_loss none over 10 samples", 4),
        ("loss none", 2 + 4),
        ("grad norm none", 2),
        (", 2 without a loss\n", 1),
        ("early stopping", 1),
        (" 0.0000", 0),
    ] {
        assert_eq!(all.matches(text).count(), times, "{text:?} in\n{all}");
    }
    assert!(ended.stdout.contains("done: 4 steps, loss "), "{all}");
    let run = run_folder(folder.path(), "unlabelled");
    let saved = std::fs::read_dir(run.join("checkpoints"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    assert_eq!(saved.collect::<Vec<_>>(), ["unlabelled--step=3-consumed_samples=4-last"]);
    let report: Value = serde_json::from_slice(&std::fs::read(run.join("report.json")).unwrap()).unwrap();
    let missing: Vec<_> = report["losses"].as_array().unwrap().iter().map(Value::is_null).collect();
    assert_eq!(missing, [false, true, true, false]);
}

#[test]
fn a_run_without_labels_is_refused_with_the_length_that_it_needs() {
    let folder = tempfile::tempdir().unwrap();
    records(folder.path(), "train.json", &[false, false]);
    records(folder.path(), "val.json", &[true]);
    let ended = train(folder.path()).with_code(2);
    assert!(
        ended
            .stderr
            .contains("finetune.data.seq_length: none of the 2 samples has a labelled token within its first 128 positions"),
        "{}",
        ended.stderr
    );
}
