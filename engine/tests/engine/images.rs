//! Images in a pipeline: only the stage with the vision encoder decodes them, and all stages are notified of a damaged one.

use crate::setting::{ONE, bits, close, lay_out, preload, preloaded, run_on, small, validations, within_limit};
use neva_engine::checkpoint::CheckpointFolder;
use neva_engine::trainer::Registry;
use neva_engine::{EngineError, Result};
use neva_schemas::{Finetune, ParallelSizes, RunReport, exit_class};
use std::path::{Path, PathBuf};

const PP2: ParallelSizes = ParallelSizes { pp: 2, ..ONE };
const TP2_PP2: ParallelSizes = ParallelSizes { tp: 2, pp: 2, ..ONE };
const DP2_PP2: ParallelSizes = ParallelSizes { dp: 2, pp: 2, ..ONE };

fn photos() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/photos")
}

/// Returns a run of two steps on photographs, with a validation on held-out ones.
fn finetune() -> Finetune {
    let mut finetune = small();
    finetune.model.as_llava_mut().unwrap().text_config.num_hidden_layers = 4;
    finetune.trainer.max_steps = Some(2);
    finetune.trainer.val_check_interval = Some(2);
    finetune.trainer.limit_val_batches = None;
    preload(&mut finetune, &photos().join("photos.json")).val_split = 0.25;
    finetune
}

fn run(finetune: &Finetune, sizes: ParallelSizes, run_dir: &Path) -> Vec<Result<RunReport>> {
    run_on(finetune, run_dir, sizes, &Registry::builtin())
}

fn losses(finetune: &Finetune, sizes: ParallelSizes) -> Vec<f64> {
    let folder = tempfile::tempdir().unwrap();
    let mut reports: Vec<_> = run(finetune, sizes, folder.path()).into_iter().map(Result::unwrap).collect();
    assert!(
        reports.iter().all(|report| *report == reports[0]),
        "{sizes:?}: ranks report different losses"
    );
    let mut losses = reports.swap_remove(0).losses;
    let lines = validations(folder.path());
    assert_eq!((losses.len(), lines.len()), (2, 1), "{sizes:?}");
    losses.push(lines[0]["val_loss"].as_f64().unwrap());
    losses
}

#[test]
fn of_files_train_equally_in_every_pipeline() {
    type Shape = (&'static str, ParallelSizes, fn(&mut Finetune));
    let shapes: [Shape; 5] = [
        ("two stages", PP2, |_| {}),
        ("two chunks each", PP2, |finetune| {
            finetune.trainer.strategy.virtual_pipeline_model_parallel_size = Some(2)
        }),
        ("the vision encoder on a stage of its own", PP2, |finetune| {
            finetune.trainer.strategy.num_layers_in_first_pipeline_stage = Some(0)
        }),
        ("and tensor-parallel ranks", TP2_PP2, |_| {}),
        ("and data-parallel ranks", DP2_PP2, |_| {}),
    ];
    within_limit(move || {
        let expected = losses(&finetune(), ONE);
        for (what, sizes, change) in shapes {
            let mut finetune = finetune();
            change(&mut finetune);
            close(what, &losses(&finetune, sizes), &expected, 1e-5);
        }
    });
}

/// Writes records of one image each, and the images: a good one and a truncated one.
fn records(folder: &Path, names: &[&str]) -> PathBuf {
    let image = std::fs::read_dir(photos()).unwrap().map(|entry| entry.unwrap().path());
    let image = image
        .into_iter()
        .find(|path| path.extension().is_some_and(|end| end == "jpg"))
        .unwrap();
    let bytes = std::fs::read(image).unwrap();
    std::fs::write(folder.join("good.jpg"), &bytes).unwrap();
    std::fs::write(folder.join("broken.jpg"), &bytes[..bytes.len() / 2]).unwrap();
    let record = |name: &&str| {
        serde_json::json!({ "image": name, "conversations": [
            { "from": "human", "value": "<image>\nWhat is it?" },
            { "from": "gpt", "value": "A picture." },
        ]})
    };
    let path = folder.join(format!("{}-of-{}.json", names.last().unwrap(), names.len()));
    std::fs::write(&path, serde_json::to_vec(&names.iter().map(record).collect::<Vec<_>>()).unwrap()).unwrap();
    path
}

/// Checks that all ranks fail with the damaged image. A stage that decoded it needlessly would report its own error.
#[track_caller]
fn all_fail(what: &str, finetune: &Finetune, sizes: ParallelSizes, reported_by: impl Fn(usize) -> Option<usize>) {
    let folder = tempfile::tempdir().unwrap();
    let errors: Vec<_> = run(finetune, sizes, folder.path()).into_iter().map(Result::unwrap_err).collect();
    for (rank, error) in errors.iter().enumerate() {
        assert_eq!(error.exit_code(), exit_class::INPUT, "{what}, rank {rank}: {error}");
        let message = error.to_string();
        assert!(
            message.contains("broken.jpg") && message.contains("truncated"),
            "{what}, rank {rank}: {message}"
        );
        let peer = match error {
            EngineError::Peer { rank, .. } => Some(*rank),
            _ => None,
        };
        assert_eq!(peer, reported_by(rank), "{what}, rank {rank}: {message}");
    }
}

#[test]
fn that_are_damaged_end_the_run_on_every_stage() {
    within_limit(|| {
        let folder = tempfile::tempdir().unwrap();
        let (good, mixed) = (
            records(folder.path(), &["good.jpg"]),
            records(folder.path(), &["good.jpg", "broken.jpg"]),
        );
        for sizes in [PP2, TP2_PP2] {
            let mut finetune = finetune();
            lay_out(&mut finetune, sizes);
            let data = preloaded(&mut finetune);
            (data.paths, data.val_split) = (vec![mixed.clone()], 0.0);
            // Before a step, the first rank notifies all. In a validation, each stage is notified by the same rank.
            let each = sizes.tp as usize;
            all_fail("in training", &finetune, sizes, |rank| (rank >= each).then_some(0));
            let data = preloaded(&mut finetune);
            (data.paths, data.val_paths) = (vec![good.clone()], vec![mixed.clone()]);
            all_fail("in a validation", &finetune, sizes, |rank| rank.checked_sub(each));
        }
    });
}

/// A run with a damaged image saves its progress in every layout, and resumes once the image is repaired.
#[test]
fn that_are_damaged_lose_no_progress() {
    let shapes = [ONE, PP2, DP2_PP2, ParallelSizes { tp: 2, ..ONE }, ParallelSizes { cp: 2, ..ONE }];
    within_limit(move || {
        let folder = tempfile::tempdir().unwrap();
        // In the order of the file: in the third step of training, and in the last batch of a validation.
        let mut files = vec!["good.jpg"; 12];
        files[9] = "broken.jpg";
        let mixed = records(folder.path(), &files);
        let broken = folder.path().join("broken.jpg");
        let (whole, cut) = (
            std::fs::read(folder.path().join("good.jpg")).unwrap(),
            std::fs::read(&broken).unwrap(),
        );
        for (index, sizes) in shapes.into_iter().enumerate() {
            for validation in [false, true] {
                let what = format!("{sizes:?}, in a validation: {validation}");
                let run_dir = folder.path().join(format!("{index} {validation}"));
                let mut finetune = finetune();
                finetune.log.ckpt.every_n_train_steps = None;
                (finetune.trainer.max_steps, finetune.trainer.val_check_interval) = (Some(5), Some(3));
                let data = preloaded(&mut finetune);
                (data.val_split, data.global_batch_size, data.micro_batch_size) = (0.0, 4, 1);
                data.shuffle = false;
                (data.paths, data.val_paths) = (vec![mixed.clone()], Vec::new());
                if validation {
                    data.val_paths = vec![mixed.clone()];
                    data.paths = vec![records(folder.path(), &["good.jpg"])];
                }
                std::fs::write(&broken, &whole).unwrap();
                let undisturbed = run(&finetune, sizes, &run_dir.with_extension("undisturbed"));
                let expected = undisturbed.into_iter().map(Result::unwrap).next().unwrap().losses;
                std::fs::write(&broken, &cut).unwrap();
                let errors: Vec<_> = run(&finetune, sizes, &run_dir).into_iter().map(Result::unwrap_err).collect();
                let mut saved = None;
                for error in &errors {
                    let message = error.to_string();
                    assert_eq!(error.exit_code(), exit_class::INPUT, "{what}: {message}");
                    // File and record, by number.
                    assert!(message.contains("broken.jpg: ") && message.contains(".json#9"), "{what}: {message}");
                    match error {
                        EngineError::Saved { checkpoint, steps, .. } => saved = Some((checkpoint.clone(), *steps)),
                        EngineError::Peer { .. } => {}
                        other => panic!("{what}: {other}"),
                    }
                }
                let (checkpoint, steps) = saved.unwrap_or_else(|| panic!("{what}: {errors:?}"));
                assert_eq!(steps, if validation { 3 } else { 2 }, "{what}");
                assert_eq!(CheckpointFolder::find(&run_dir).unwrap().steps_done(), steps, "{what}");
                CheckpointFolder::open(&checkpoint).unwrap().verify().unwrap();
                std::fs::write(&broken, &whole).unwrap();
                let resumed = run(&finetune, sizes, &run_dir).into_iter().map(Result::unwrap).next().unwrap();
                assert_eq!(bits(&resumed.losses), bits(&expected[steps as usize..]), "{what}");
            }
        }
    });
}
