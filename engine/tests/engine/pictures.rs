//! Pictures in a pipeline: the stage with the vision encoder decodes them, the others need not, and all learn of one
//! that is broken.

use crate::setting::{ONE, close, lay_out, preload, preloaded, run_on, small, validations, within_limit};
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

/// Two steps on photographs, and a validation on some that were set aside.
fn finetune() -> Finetune {
    let mut finetune = small();
    finetune.model.llava_mut().text_config.num_hidden_layers = 4;
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
fn of_files_train_every_pipeline_alike() {
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

/// Records of one picture each: a good one, and one that is cut short.
fn records(folder: &Path, names: &[&str]) -> PathBuf {
    let picture = std::fs::read_dir(photos()).unwrap().map(|entry| entry.unwrap().path());
    let picture = picture
        .into_iter()
        .find(|path| path.extension().is_some_and(|end| end == "jpg"))
        .unwrap();
    let bytes = std::fs::read(picture).unwrap();
    std::fs::write(folder.join("good.jpg"), &bytes).unwrap();
    std::fs::write(folder.join("broken.jpg"), &bytes[..bytes.len() / 2]).unwrap();
    let record = |name: &&str| {
        serde_json::json!({ "image": name, "conversations": [
            { "from": "human", "value": "<image>\nWhat is it?" },
            { "from": "gpt", "value": "A picture." },
        ]})
    };
    let path = folder.join(format!("{}.json", names.join("-")));
    std::fs::write(&path, serde_json::to_vec(&names.iter().map(record).collect::<Vec<_>>()).unwrap()).unwrap();
    path
}

/// A stage without the encoder that decoded the picture would fail with words of its own.
#[track_caller]
fn all_fail(what: &str, finetune: &Finetune, sizes: ParallelSizes) {
    let folder = tempfile::tempdir().unwrap();
    let errors: Vec<_> = run(finetune, sizes, folder.path()).into_iter().map(Result::unwrap_err).collect();
    let each = errors.len() / 2;
    for (rank, error) in errors.iter().enumerate() {
        assert_eq!(error.class(), exit_class::INPUT, "{what}, rank {rank}: {error}");
        let said = error.to_string();
        assert!(
            said.contains("broken.jpg") && said.contains("truncated"),
            "{what}, rank {rank}: {said}"
        );
        let told_by = match error {
            EngineError::Peer { rank, .. } => Some(*rank),
            _ => None,
        };
        assert_eq!(told_by, rank.checked_sub(each), "{what}, rank {rank}: {said}");
    }
}

#[test]
fn that_are_broken_end_the_run_on_every_stage() {
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
            all_fail("in training", &finetune, sizes);
            let data = preloaded(&mut finetune);
            (data.paths, data.val_paths) = (vec![good.clone()], vec![mixed.clone()]);
            all_fail("in a validation", &finetune, sizes);
        }
    });
}
