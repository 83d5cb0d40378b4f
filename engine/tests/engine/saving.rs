//! Saves: no failure leaves an incomplete folder under a checkpoint's name.

use crate::setting::{ONE, copy, files, lay_out, names, on_mesh, run, saved, small, trainer, within_limit};
use neva_engine::EngineError;
use neva_engine::checkpoint::{Artifacts, CheckpointFolder};
use neva_engine::comm::Mesh;
use neva_schemas::{ParallelSizes, exit_class};
use std::path::Path;

fn name(steps: u64) -> String {
    format!("default--step={}-consumed_samples={}", steps - 1, 8 * steps)
}

/// Returns the name of the newest checkpoint.
fn last(steps: u64) -> String {
    name(steps) + "-last"
}

#[test]
fn a_checkpoint_holds_the_files_of_its_table() {
    within_limit(|| {
        let folder = tempfile::tempdir().unwrap();
        let finetune = small();
        let artifacts = vec![("tokenizer.json".to_owned(), b"{}".to_vec())];
        let path = saved(folder.path(), &trainer(&finetune, Mesh::single()), &finetune, 3, &artifacts, 10).unwrap();
        assert_eq!(path, folder.path().join(last(3)));
        assert_eq!(
            names(&path),
            [
                "checkpoint.blake3",
                "checkpoint.json",
                "model.safetensors",
                "optimizer.safetensors",
                "run.json",
                "tokenizer.json"
            ]
        );
        let opened = CheckpointFolder::open(&path).unwrap();
        let progress = &opened.state.progress;
        assert_eq!(
            (
                progress.steps_done,
                progress.consumed_samples,
                progress.metrics.get("reduced_train_loss")
            ),
            (3, 24, Some(&1.5))
        );
        assert!(opened.verify().is_ok());
        assert_eq!(opened.run.finetune, finetune);
    });
}

#[test]
fn older_checkpoints_are_removed_and_other_folders_kept() {
    for (keep, expected) in [(0, vec![]), (2, vec![5]), (3, vec![4, 5]), (-1, vec![1, 2, 3, 4, 5])] {
        within_limit(move || {
            let folder = tempfile::tempdir().unwrap();
            let mut finetune = small();
            (finetune.log.ckpt.every_n_train_steps, finetune.log.ckpt.save_top_k) = (Some(1), keep);
            let parent = folder.path().join("checkpoints");
            std::fs::create_dir_all(parent.join("notes of mine")).unwrap();
            let report = run(&finetune, folder.path()).unwrap();
            assert_eq!(report.checkpoint, Some(parent.join(last(6))));
            let mut expected: Vec<_> = expected.into_iter().map(name).collect();
            expected.extend([last(6), "notes of mine".into()]);
            assert_eq!(names(&parent), expected);
        });
    }
}

/// Saves once, then again with an obstacle.
fn check_failure(obstacle: impl FnOnce(&Path), artifacts: &Artifacts, expect: &str) -> EngineError {
    let folder = tempfile::tempdir().unwrap();
    let finetune = small();
    let trainer = trainer(&finetune, Mesh::single());
    let earlier = saved(folder.path(), &trainer, &finetune, 3, &Vec::new(), 0).unwrap();
    let before = files(&earlier);
    obstacle(folder.path());
    let present = names(folder.path());
    let error = saved(folder.path(), &trainer, &finetune, 6, artifacts, 0).unwrap_err();
    assert!(error.to_string().contains(expect), "{error}");
    assert!(files(&earlier) == before, "the earlier checkpoint was touched");
    assert_eq!(names(folder.path()), present, "something was left behind");
    error
}

#[test]
fn a_full_disk_keeps_the_earlier_checkpoint() {
    within_limit(|| {
        // The disk is full when the last files are written, after the tensors.
        let artifacts = vec![("/dev/full".to_owned(), vec![0; 1 << 16])];
        let error = check_failure(|_| {}, &artifacts, "cannot write /dev/full: No space left on device");
        assert_eq!(error.exit_code(), exit_class::CLUSTER);
        assert!(error.help().unwrap().contains("make room"), "{:?}", error.help());
    });
}

/// The first rank fails on the full disk while the other rank, which has the head, is still writing. That rank must not
/// fail because the first one removed the folder.
#[test]
fn a_full_disk_is_the_root_cause_on_every_rank() {
    within_limit(|| {
        let folder = tempfile::tempdir().unwrap();
        let mut finetune = small();
        let sizes = ParallelSizes { pp: 2, ..ONE };
        lay_out(&mut finetune, sizes);
        finetune.model.as_llava_mut().unwrap().text_config.vocab_size = 100_000;
        let artifacts = vec![("/dev/full".to_owned(), vec![0; 1 << 16])];
        let errors = on_mesh(sizes, |mesh| {
            let trainer = trainer(&finetune, mesh);
            saved(folder.path(), &trainer, &finetune, 3, &artifacts, 10).unwrap_err()
        });
        for error in errors {
            assert!(
                error.to_string().contains("cannot write /dev/full: No space left on device"),
                "{error}"
            );
            assert_eq!(error.exit_code(), exit_class::CLUSTER);
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "something was left behind");
    });
}

#[test]
fn an_unwritable_folder_keeps_the_earlier_checkpoint() {
    within_limit(|| {
        let artifacts = vec![("no/such/folder".to_owned(), Vec::new())];
        check_failure(|_| {}, &artifacts, "cannot write ");
        check_failure(
            |parent| std::fs::write(parent.join(last(6)), b"a file in the way").unwrap(),
            &Vec::new(),
            "Not a directory",
        );
        check_failure(
            |parent| std::fs::write(parent.join(format!(".{}.writing", last(6))), b"a file in the way").unwrap(),
            &Vec::new(),
            "cannot remove ",
        );
    });
}

#[test]
fn remains_of_a_killed_save_are_removed() {
    within_limit(|| {
        let folder = tempfile::tempdir().unwrap();
        let finetune = small();
        let trainer = trainer(&finetune, Mesh::single());
        let earlier = saved(folder.path(), &trainer, &finetune, 3, &Vec::new(), 10).unwrap();
        // Killed while it replaced the third step, and while it saved the sixth.
        for steps in [3, 6] {
            let leftover = folder.path().join(format!(".{}.writing", last(steps)));
            copy(&earlier, &leftover);
            std::fs::write(leftover.join("model.safetensors"), b"half").unwrap();
            saved(folder.path(), &trainer, &finetune, steps, &Vec::new(), 10).unwrap();
            assert!(!leftover.exists());
        }
        assert_eq!(names(folder.path()), [name(3), last(6)]);
        assert!(files(&folder.path().join(name(3)))[Path::new("model.safetensors")].len() > 4);
    });
}

/// The tensors are as readable as other files: a checkpoint may be another user's base.
#[cfg(unix)]
#[test]
fn all_files_have_the_same_permissions() {
    use std::os::unix::fs::PermissionsExt;
    within_limit(|| {
        let folder = tempfile::tempdir().unwrap();
        let finetune = small();
        let path = saved(folder.path(), &trainer(&finetune, Mesh::single()), &finetune, 1, &Vec::new(), 0).unwrap();
        let mode = |name: &str| std::fs::metadata(path.join(name)).unwrap().permissions().mode();
        for name in names(&path) {
            assert_eq!(mode(&name), mode("run.json"), "permissions of {name}");
        }
    });
}

#[test]
fn a_step_that_is_saved_again_replaces_the_first() {
    within_limit(|| {
        let folder = tempfile::tempdir().unwrap();
        let mut finetune = small();
        let trainer = trainer(&finetune, Mesh::single());
        let artifacts = |text: &str| vec![("note.txt".to_owned(), text.as_bytes().to_vec())];
        for (text, called_last) in [("first", true), ("second", true), ("third", false), ("fourth", true)] {
            finetune.log.ckpt.save_last = called_last;
            let path = saved(folder.path(), &trainer, &finetune, 3, &artifacts(text), 10).unwrap();
            assert_eq!(std::fs::read_to_string(path.join("note.txt")).unwrap(), text);
            assert!(CheckpointFolder::open(&path).is_ok());
        }
        // Hidden folders too: the first checkpoint is removed, not renamed.
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    });
}
