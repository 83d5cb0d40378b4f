//! Fixtures of checkpoint folders.

use neva_engine::checkpoint::{
    Artifacts, BaseReference, CheckpointFolder, Checksum, HostMemory, RunProgress, SEAL, Saving, Snapshot, TensorFile, save, write_tensors,
};
use neva_engine::trainer::Trainer;
use neva_schemas::{Finetune, Run};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tch::Tensor;

/// Returns every file under a folder with its bytes.
pub(crate) fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.insert(path.strip_prefix(folder).unwrap().to_owned(), std::fs::read(&path).unwrap());
            }
        }
    }
    found
}

/// Returns the sorted names in a folder.
pub(crate) fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Copies a folder of files.
pub(crate) fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for (name, bytes) in files(from) {
        std::fs::write(to.join(name), bytes).unwrap();
    }
}

/// Saves a trainer after `steps` steps of 8 samples.
pub(crate) fn saved(
    parent: &Path,
    trainer: &Trainer,
    finetune: &Finetune,
    steps: u64,
    artifacts: &Artifacts,
    keep: i64,
) -> neva_engine::Result<PathBuf> {
    with_snapshot(trainer, finetune, steps, artifacts, keep, |snapshot| {
        save(parent, snapshot, trainer.mesh())
    })
}

/// Starts an asynchronous save of a trainer after `steps` steps of 8 samples.
pub(crate) fn saved_later(parent: &Path, trainer: &Trainer, finetune: &Finetune, steps: u64, memory: &HostMemory) -> Saving {
    with_snapshot(trainer, finetune, steps, &Vec::new(), 10, |snapshot| {
        Saving::start(parent, snapshot, Some(memory), trainer.mesh()).unwrap()
    })
}

fn with_snapshot<T>(
    trainer: &Trainer,
    finetune: &Finetune,
    steps: u64,
    artifacts: &Artifacts,
    keep: i64,
    then: impl FnOnce(&Snapshot<'_>) -> T,
) -> T {
    let mut run = Run::from_finetune(finetune.clone());
    run.finetune.log.ckpt.save_top_k = keep;
    let progress = RunProgress {
        steps_done: steps,
        consumed_samples: 8 * steps,
        total_steps: 6,
        metrics: [("reduced_train_loss".to_owned(), 1.5)].into(),
        ..RunProgress::default()
    };
    then(&Snapshot {
        run: &run,
        progress: &progress,
        base: &BaseReference::Seed { seed: 1234 },
        parameters: trainer.parameters(),
        optimizer: trainer.optimizer(),
        fp8: trainer.fp8(),
        artifacts,
    })
}

/// Updates the checksums of a checkpoint that a test has changed.
pub(crate) fn reseal(checkpoint: &Path) {
    let mut state = CheckpointFolder::open(checkpoint).unwrap().state;
    for (name, sum) in &mut state.files {
        *sum = Checksum::of(&checkpoint.join(name)).unwrap();
    }
    let state = serde_json::to_vec(&state).unwrap();
    std::fs::write(checkpoint.join("checkpoint.json"), &state).unwrap();
    std::fs::write(
        checkpoint.join(SEAL),
        Checksum::of(&checkpoint.join("checkpoint.json")).unwrap().blake3,
    )
    .unwrap();
}

/// Changes the tensors of a file.
pub(crate) fn rewrite(path: &Path, change: impl FnOnce(&mut Vec<(String, Tensor)>)) {
    let file = TensorFile::open(path).unwrap();
    let names = file.tensors().into_keys();
    let mut tensors: Vec<_> = names.map(|name| (name.clone(), file.read(&name, None).unwrap())).collect();
    change(&mut tensors);
    write_tensors(path, tensors).unwrap();
}
