//! A small run for the tests that stop, kill and resume, here and on clusters; and what it recorded.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Returns arguments of a small run `name` in `dir` with steps of a few milliseconds that saves every fifth step.
pub fn small(dir: &Path, name: &str, more: &[&str]) -> Vec<String> {
    let (at, name) = (format!("dir={}", dir.display()), format!("name={name}"));
    let settings = [
        &name,
        &at,
        "finetune.trainer.threads_per_rank=1",
        "finetune.trainer.val_check_interval=null",
        "finetune.model.text_config.hidden_size=32",
        "finetune.model.text_config.intermediate_size=48",
        "finetune.model.text_config.num_hidden_layers=2",
        "finetune.model.vision_config.hidden_size=32",
        "finetune.model.vision_config.intermediate_size=48",
        "finetune.model.vision_config.image_size=28",
        "finetune.data.seq_length=16",
        "finetune.data.micro_batch_size=2",
        "finetune.data.global_batch_size=4",
        "finetune.log.ckpt.every_n_train_steps=5",
        "finetune.log.ckpt.save_top_k=1",
        "finetune.log.tensorboard=false",
        "finetune.resume.resume_if_exists=true",
        "finetune.resume.resume_ignore_no_checkpoint=true",
    ];
    let sets = settings
        .into_iter()
        .chain(more.iter().copied())
        .flat_map(|setting| ["--set".to_owned(), setting.to_owned()]);
    std::iter::once("recipes/neva_tiny.yaml".to_owned()).chain(sets).collect()
}

/// Returns the words as slices, with more at the end.
pub fn words<'a>(arguments: &'a [String], more: &[&'a str]) -> Vec<&'a str> {
    arguments.iter().map(String::as_str).chain(more.iter().copied()).collect()
}

/// Returns the bits of each step's loss.
///
/// # Panics
/// A step that was repeated has another loss.
#[track_caller]
pub fn losses(run: &Path) -> BTreeMap<u64, u64> {
    losses_of([run.to_owned()])
}

/// Returns the bits of each step's loss, over several runs.
///
/// # Panics
/// A step that was repeated has another loss.
#[track_caller]
pub fn losses_of(runs: impl IntoIterator<Item = PathBuf>) -> BTreeMap<u64, u64> {
    let mut losses = BTreeMap::new();
    for run in runs {
        // A run that was killed early has no metrics.
        let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap_or_default();
        for line in text.lines() {
            let line: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
            let (Some(step), Some(loss)) = (line["step"].as_u64(), line["reduced_train_loss"].as_f64()) else {
                continue;
            };
            let before = losses.insert(step, loss.to_bits());
            assert!(
                before.is_none_or(|bits| bits == loss.to_bits()),
                "step {step} has another loss the second time"
            );
        }
    }
    losses
}

/// Returns the newest run of `name` below `dir`, once it exists.
pub fn newest(dir: &Path, name: &str) -> Option<PathBuf> {
    let runs = fs::read_dir(dir.join(name)).ok()?;
    runs.filter_map(|run| Some(run.ok()?.path())).max()
}

/// Returns the number of steps that a run has recorded.
pub fn steps(run: &Path) -> usize {
    fs::read_to_string(run.join("metrics.jsonl")).map_or(0, |text| text.lines().count())
}
