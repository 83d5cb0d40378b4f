//! Asynchronous saves.

use crate::setting::{ONE, bits, files, lay_out, names, on_mesh, run, run_on, saved, saved_later, small, trainer, within_limit};
use neva_engine::checkpoint::{CheckpointFolder, HostMemory};
use neva_engine::comm::Mesh;
use neva_engine::trainer::Registry;
use neva_schemas::{Finetune, ParallelSizes};
use std::path::Path;

fn saving(is_async: bool) -> Finetune {
    let mut finetune = small();
    let ckpt = &mut finetune.log.ckpt;
    (ckpt.every_n_train_steps, ckpt.save_top_k, ckpt.ckpt_async_save) = (Some(1), -1, is_async);
    finetune
}

/// Returns tensors and progress of all checkpoints of a run.
fn checkpoints(run_dir: &Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let mut found: Vec<_> = files(&run_dir.join("checkpoints")).into_iter().collect();
    // The settings of the runs differ.
    found.retain(|(name, _)| {
        !["run.json", "checkpoint.json", "checkpoint.blake3"]
            .iter()
            .any(|end| name.ends_with(end))
    });
    found
}

#[test]
fn equal_synchronous_saves() {
    within_limit(|| {
        for sizes in [ONE, ParallelSizes { tp: 2, pp: 2, ..ONE }] {
            let folder = tempfile::tempdir().unwrap();
            let of = |is_async: bool| {
                let run_dir = folder.path().join(is_async.to_string());
                let reports = run_on(&saving(is_async), &run_dir, sizes, &Registry::builtin());
                let reports: Vec<_> = reports.into_iter().map(Result::unwrap).collect();
                let last = run_dir.join("checkpoints/default--step=5-consumed_samples=48-last");
                assert!(
                    reports.iter().all(|report| report.checkpoint.as_ref() == Some(&last)),
                    "{reports:?}"
                );
                (bits(&reports[0].losses), checkpoints(&run_dir))
            };
            let (expected, got) = (of(false), of(true));
            assert_eq!(got.0, expected.0);
            let names = |found: &[(std::path::PathBuf, Vec<u8>)]| found.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
            assert_eq!(names(&got.1), names(&expected.1));
            assert!(got.1 == expected.1, "{sizes:?}: a checkpoint holds values of later steps");
        }
    });
}

/// Training after the copy does not change the checkpoint.
#[test]
fn hold_the_state_at_their_start() {
    within_limit(|| {
        let folder = tempfile::tempdir().unwrap();
        let finetune = small();
        let trainer = trainer(&finetune, Mesh::single());
        let (now, later) = (folder.path().join("now"), folder.path().join("later"));
        let tensors = |path: &Path| files(path)[Path::new("model.safetensors")].clone();
        let memory = HostMemory::default();
        // The second copy reuses the memory of the first.
        for (steps, value) in [(1, 7.0), (2, 8.0)] {
            let saving = saved_later(&later, &trainer, &finetune, steps, &memory);
            let expected = saved(&now, &trainer, &finetune, steps, &Vec::new(), 10).unwrap();
            for piece in trainer.optimizer().shards() {
                let values = piece.master.values().unwrap();
                piece.master.set(&values.full_like(value)).unwrap();
            }
            let path = saving.finish(trainer.mesh()).unwrap();
            assert!(tensors(&path) == tensors(&expected));
        }
    });
}

/// The ranks of a failed run need no collective: the first rank waits for those that still write, even if it has
/// little to write itself.
#[test]
fn in_progress_when_the_run_fails_are_completed() {
    within_limit(|| {
        let folder = tempfile::tempdir().unwrap();
        let mut finetune = small();
        let sizes = ParallelSizes { pp: 2, ..ONE };
        lay_out(&mut finetune, sizes);
        // The last stage has the head.
        finetune.model.as_llava_mut().unwrap().text_config.vocab_size = 50_000;
        on_mesh(sizes, |mesh| {
            let trainer = trainer(&finetune, mesh);
            drop(saved_later(folder.path(), &trainer, &finetune, 3, &HostMemory::default()));
        });
        let found = CheckpointFolder::find(folder.path()).unwrap();
        found.verify().unwrap();
        let mut listed: Vec<_> = found.state.files.keys().cloned().collect();
        listed.extend(["checkpoint.blake3".into(), "checkpoint.json".into()]);
        listed.sort();
        assert_eq!(names(&found.path), listed);
    });
}

#[test]
fn that_fail_end_the_run() {
    within_limit(|| {
        let folder = tempfile::tempdir().unwrap();
        let mut finetune = saving(true);
        finetune.log.ckpt.every_n_train_steps = Some(2);
        finetune.trainer.max_steps = Some(50);
        let parent = folder.path().join("checkpoints");
        std::fs::create_dir(&parent).unwrap();
        // A file has the second checkpoint's name.
        std::fs::write(parent.join("default--step=3-consumed_samples=32-last"), b"in the way").unwrap();
        let failure = run(&finetune, folder.path()).unwrap_err();
        assert!(failure.to_string().contains("Not a directory"), "{failure}");
        assert!(
            failure.step.is_some_and(|step| step < 6),
            "raised at the latest when the next one is asked for: {failure:?}"
        );
        let left = crate::setting::names(&parent);
        assert_eq!(
            left,
            [
                "default--step=1-consumed_samples=16-last",
                "default--step=3-consumed_samples=32-last"
            ]
        );
    });
}
