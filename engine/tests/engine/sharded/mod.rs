//! Checkpoints of several ranks: each writes its shard, and any layout resumes from them.

mod failing;

use crate::distributed::ddp;
use crate::setting::{
    ONE, adapters, bits, close, files, lay_out, load, lora, names, on_mesh, precision, run_on, saved, small, trainer, weights, within_limit,
};
use neva_engine::checkpoint::{CheckpointFolder, TensorFile, bytes_read, restore_optimizer};
use neva_engine::comm::{Axis, Mesh};
use neva_engine::trainer::{Registry, Trainer};
use neva_layout::Window;
use neva_schemas::{Finetune, ParallelSizes, Precision, RunReport, VisionPlacement};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

const TP2: ParallelSizes = ParallelSizes { tp: 2, ..ONE };
const TP4: ParallelSizes = ParallelSizes { tp: 4, ..ONE };
const DP4: ParallelSizes = ParallelSizes { dp: 4, ..ONE };
const PP2: ParallelSizes = ParallelSizes { pp: 2, ..ONE };
const TP2_PP2: ParallelSizes = ParallelSizes { tp: 2, pp: 2, ..ONE };
const TP2_DP2: ParallelSizes = ParallelSizes { tp: 2, dp: 2, ..ONE };

/// Returns a run of six steps of a model of 4 layers and grouped queries, saved every three. The number of padding rows
/// differs between layouts.
fn saving() -> Finetune {
    let mut finetune = small();
    let text = &mut finetune.model.as_llava_mut().unwrap().text_config;
    (text.num_hidden_layers, text.vocab_size) = (4, 200);
    finetune.log.ckpt.every_n_train_steps = Some(3);
    finetune
}

const AFTER_3: &str = "checkpoints/default--step=2-consumed_samples=24";
const AFTER_6: &str = "checkpoints/default--step=5-consumed_samples=48-last";

fn on(finetune: &Finetune, sizes: ParallelSizes, run_dir: &Path) -> RunReport {
    let ranks = run_on(finetune, run_dir, sizes, &Registry::builtin());
    let mut reports: Vec<_> = ranks.into_iter().map(Result::unwrap).collect();
    reports.swap_remove(0)
}

fn check(from: ParallelSizes, layouts: &[ParallelSizes], change: impl FnOnce(&mut Finetune)) {
    let shared = |sizes: &ParallelSizes| (*sizes, VisionPlacement::Shared);
    let layouts: Vec<_> = layouts.iter().map(shared).collect();
    check_placements(shared(&from), &layouts, change);
}

type Placed = (ParallelSizes, VisionPlacement);

fn check_placements(from: Placed, layouts: &[Placed], change: impl FnOnce(&mut Finetune)) {
    let folder = tempfile::tempdir().unwrap();
    let mut finetune = saving();
    change(&mut finetune);
    finetune.trainer.strategy.vision_placement = from.1;
    let whole = folder.path().join("whole");
    let expected = on(&finetune, from.0, &whole);
    finetune.resume.resume_from_path = Some(whole.join(AFTER_3));
    for (number, to) in layouts.iter().enumerate() {
        let rest = folder.path().join(number.to_string());
        finetune.trainer.strategy.vision_placement = to.1;
        let got = on(&finetune, to.0, &rest);
        if *to == from {
            assert_eq!(bits(&got.losses), bits(&expected.losses[3..]), "{from:?}");
            let tensors = |run: &Path| {
                let mut files = files(&run.join(AFTER_6));
                files.retain(|name, _| name.extension().is_some_and(|end| end == "safetensors"));
                files
            };
            assert!(tensors(&rest) == tensors(&whole), "{from:?}: other weights or moments");
        } else {
            close(&format!("{from:?} to {to:?}: loss"), &got.losses, &expected.losses[3..], 1e-5);
        }
    }
}

#[test]
fn resume_in_every_layout() {
    within_limit(|| check(TP2_PP2, &[TP2_PP2, TP4], |_| {}));
    within_limit(|| check(ONE, &[TP2_PP2, TP4], |_| {}));
    within_limit(|| check(TP4, &[TP4, PP2, TP2_DP2], |_| {}));
}

#[test]
fn of_adapters_resume_in_every_layout() {
    within_limit(|| check(TP2_PP2, &[TP2_PP2, TP4], lora));
}

#[test]
fn of_a_tied_head_resume_in_every_layout() {
    let tied = |finetune: &mut Finetune| finetune.model.as_llava_mut().unwrap().text_config.tie_word_embeddings = true;
    within_limit(move || check(TP2_PP2, &[TP2_PP2, ONE, TP4], tied));
}

/// Shards of a distributed optimizer are arbitrary rectangles.
#[test]
fn of_optimizer_shards_resume_in_every_layout() {
    for change in [|_: &mut Finetune| {}, lora] {
        within_limit(move || {
            check(TP2_DP2, &[TP2_DP2, DP4, ONE, TP2_PP2], |finetune| {
                change(finetune);
                ddp(finetune, true, true);
            });
        });
    }
    within_limit(|| {
        check(DP4, &[DP4], |finetune| {
            ddp(finetune, true, true);
            precision(finetune, Precision::Bf16Mixed);
        });
    });
}

/// Vision encoder and projector are split, or whole on every rank, also with adapters.
#[test]
fn resume_in_every_placement() {
    use VisionPlacement::{Cut, Duplicated, Shared};
    let four_heads = |finetune: &mut Finetune| finetune.model.as_llava_mut().unwrap().vision_config.num_attention_heads = 4;
    let adapted = |finetune: &mut Finetune| adapters(finetune, &["q_proj", "out_proj", "fc1", "fc2", "linear_1", "linear_2"]);
    within_limit(move || {
        check_placements(
            (TP4, Cut),
            &[(TP4, Cut), (TP2_DP2, Shared), (ONE, Shared), (TP2_PP2, Cut)],
            four_heads,
        );
        check_placements((TP2_DP2, Cut), &[(TP2_DP2, Cut), (TP2, Duplicated)], |finetune| {
            ddp(finetune, true, true);
        });
        check_placements((TP2, Shared), &[(TP2, Shared), (TP2, Cut), (TP2_PP2, Cut)], |_| {});
        check_placements((TP4, Cut), &[(TP4, Cut), (TP2, Shared)], |finetune| {
            four_heads(finetune);
            adapted(finetune);
        });
    });
}

/// Parameters are rounded, so the master weights must be restored.
#[test]
fn in_bf16_resume_with_every_bit() {
    within_limit(|| check(TP2_PP2, &[TP2_PP2], |finetune| precision(finetune, Precision::Bf16Mixed)));
}

/// Saves in a layout. Returns the folder of the checkpoint.
fn save_in(parent: &Path, finetune: &Finetune, sizes: ParallelSizes) -> PathBuf {
    let mut finetune = finetune.clone();
    lay_out(&mut finetune, sizes);
    let save = |mesh| saved(parent, &trainer(&finetune, mesh), &finetune, 1, &Vec::new(), 10).unwrap();
    let mut paths = on_mesh(sizes, save);
    assert!(paths.iter().all(|path| *path == paths[0]), "{paths:?}");
    paths.swap_remove(0)
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Every value of every trained parameter is in exactly one file.
#[test]
fn hold_each_value_once() {
    within_limit(|| {
        for (sizes, writers) in [(TP2, 2), (TP2_PP2, 4), (TP4, 4), (PP2, 2), (TP2_DP2, 2)] {
            let folder = tempfile::tempdir().unwrap();
            let mut finetune = saving();
            finetune.model.as_llava_mut().unwrap().text_config.tie_word_embeddings = true;
            let path = save_in(folder.path(), &finetune, sizes);
            let numbered = |what: &'static str| (1..=writers).map(move |n| format!("{what}-{n:05}-of-{writers:05}.safetensors"));
            let mut expected = vec!["checkpoint.blake3".to_owned(), "checkpoint.json".into()];
            expected.extend(["model", "optimizer"].into_iter().flat_map(numbered));
            expected.extend(["pieces.json".into(), "run.json".into()]);
            assert_eq!(names(&path), expected, "{sizes:?}");
            CheckpointFolder::open(&path).unwrap().verify().unwrap();

            let index = json(&path.join("pieces.json"));
            let mut keys = BTreeSet::new();
            for (name, tensor) in index["model"]
                .as_object()
                .unwrap()
                .iter()
                .chain(index["optimizer"].as_object().unwrap())
            {
                let shape: Vec<usize> = serde_json::from_value(tensor["shape"].clone()).unwrap();
                let [_, columns] = Window::whole(&shape).shape();
                let mut seen = vec![0; shape.iter().product()];
                for piece in tensor["pieces"].as_array().unwrap() {
                    let window: Window = serde_json::from_value(piece["window"].clone()).unwrap();
                    let at = window
                        .rows
                        .clone()
                        .flat_map(|row| window.columns.clone().map(move |column| row * columns + column));
                    at.for_each(|at| seen[at] += 1);
                    keys.insert((
                        piece["file"].as_str().unwrap().to_owned(),
                        piece["key"].as_str().unwrap().to_owned(),
                    ));
                }
                assert!(seen.iter().all(|times| *times == 1), "{sizes:?}: `{name}`");
            }
            let mut stored = BTreeSet::new();
            for file in names(&path).into_iter().filter(|name| name.ends_with(".safetensors")) {
                let tensors = TensorFile::open(&path.join(&file)).unwrap().tensors();
                stored.extend(tensors.into_keys().map(|key| (file.clone(), key)));
            }
            assert_eq!(stored, keys, "{sizes:?}");
        }
    });
}

/// A rank reads only its local shard of trained parameters and moments.
#[test]
fn are_read_by_shard() {
    within_limit(|| {
        let folder = tempfile::tempdir().unwrap();
        let finetune = saving();
        let path = save_in(folder.path(), &finetune, TP2);
        let whole = load_in(&path, &finetune, ONE);
        for sizes in [ONE, TP2, TP4, PP2, TP2_PP2] {
            for (number, (read, values, weights)) in load_in(&path, &finetune, sizes).into_iter().enumerate() {
                // A weight and two moments of 4 bytes; the step count of each parameter.
                assert_eq!(read, values, "bytes that rank {number} of {sizes:?} reads");
                for (name, weight) in weights {
                    assert!(weight.equal(&whole[0].2[&name]), "{sizes:?}: `{name}`");
                }
            }
        }
    });
}

/// Returns for each rank the bytes that it reads of a checkpoint and that it holds, and the whole weights.
fn load_in(path: &Path, finetune: &Finetune, sizes: ParallelSizes) -> Vec<(u64, u64, BTreeMap<String, tch::Tensor>)> {
    let mut finetune = finetune.clone();
    lay_out(&mut finetune, sizes);
    on_mesh(sizes, |mesh| {
        let before = bytes_read();
        let trainer = restored(path, &finetune, mesh);
        let read = bytes_read() - before;
        let group = trainer.mesh().axis(Axis::Tensor).clone();
        let trained = trainer.parameters().trainable();
        let held: usize = trained
            .map(|parameter| 12 * parameter.spec.window(group.rank(), group.size()).numel() + 4)
            .sum();
        (read, held as u64, weights(&trainer))
    })
}

fn restored(path: &Path, finetune: &Finetune, mesh: Mesh) -> Trainer {
    let checkpoint = CheckpointFolder::open(path).unwrap();
    let trainer = Trainer::new(finetune, load(finetune, Some(&checkpoint), &mesh), mesh).unwrap();
    let group = trainer.mesh().axis(Axis::Tensor);
    restore_optimizer(&checkpoint, trainer.optimizer(), trainer.parameters(), (group.rank(), group.size())).unwrap();
    trainer
}
