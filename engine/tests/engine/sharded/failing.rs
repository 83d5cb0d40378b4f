//! Checkpoints of several ranks that cannot be written or read.

use super::{AFTER_6, TP2, TP2_PP2, json, on, save_in, saving};
use crate::setting::{ONE, close, files, lay_out, names, on_mesh, saved, trainer, within_limit};
use neva_engine::EngineError;
use neva_engine::checkpoint::CheckpointFolder;
use neva_schemas::exit_class;
use std::path::Path;

/// Returns each rank's error of a failing save, with a different folder for each rank.
fn failing(parents: [&Path; 2]) -> Vec<EngineError> {
    let mut finetune = saving();
    lay_out(&mut finetune, TP2);
    on_mesh(TP2, |mesh| {
        let parent = parents[mesh.world().rank()];
        saved(parent, &trainer(&finetune, mesh), &finetune, 1, &Vec::new(), 10).unwrap_err()
    })
}

#[test]
fn that_one_rank_cannot_write_fail_on_all() {
    within_limit(|| {
        let [own, other] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let earlier = save_in(own.path(), &saving(), TP2);
        let before = files(&earlier);
        // The second rank sees the folder, but cannot write into it.
        let name = format!(".{}.writing", earlier.file_name().unwrap().display());
        let staging = other.path().join(&name);
        std::fs::create_dir(&staging).unwrap();
        std::os::unix::fs::symlink(own.path().join(&name).join("token"), staging.join("token")).unwrap();
        std::fs::create_dir(staging.join("model-00002-of-00002.writing")).unwrap();
        let errors = failing([own.path(), other.path()]);
        let message: Vec<_> = errors.iter().map(ToString::to_string).collect();
        assert!(
            message[1].starts_with("cannot write ") && message[1].contains("Is a directory"),
            "{}",
            message[1]
        );
        assert_eq!(message[0], format!("rank 1 failed: {}", message[1]));
        assert!(errors.iter().all(|error| error.exit_code() == exit_class::JOB));
        assert!(files(&earlier) == before, "the earlier checkpoint was touched");
        assert_eq!(std::fs::read_dir(own.path()).unwrap().count(), 1, "something was left behind");
    });
}

#[test]
fn on_a_local_disk_are_refused() {
    within_limit(|| {
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let errors = failing([folders[0].path(), folders[1].path()]);
        let message = errors[1].to_string();
        assert!(message.contains("must be on a disk that all its machines share"), "{message}");
        assert_eq!(errors[0].to_string(), format!("rank 1 failed: {message}"));
        assert!(errors.iter().all(|error| error.exit_code() == exit_class::CLUSTER));
        assert!(
            folders
                .iter()
                .all(|folder| std::fs::read_dir(folder.path()).unwrap().next().is_none())
        );
    });
}

#[test]
fn that_are_damaged_are_skipped_for_an_older_one() {
    within_limit(|| {
        let folder = tempfile::tempdir().unwrap();
        let finetune = saving();
        let run_dir = folder.path().join("run");
        let expected = on(&finetune, TP2_PP2, &run_dir);
        let checkpoint = run_dir.join(AFTER_6);
        for file in [
            "model-00003-of-00004.safetensors",
            "optimizer-00004-of-00004.safetensors",
            "pieces.json",
        ] {
            let bytes = std::fs::read(checkpoint.join(file)).unwrap();
            let mut flipped = bytes.clone();
            *flipped.last_mut().unwrap() ^= 1;
            std::fs::write(checkpoint.join(file), flipped).unwrap();
            let error = CheckpointFolder::open(&checkpoint).unwrap().verify().unwrap_err();
            assert!(error.to_string().contains(&format!("{file}: damaged")), "{error}");
            std::fs::write(checkpoint.join(file), bytes).unwrap();
        }
        std::fs::remove_file(checkpoint.join("model-00003-of-00004.safetensors")).unwrap();
        let got = on(&finetune, ONE, &run_dir);
        close("loss", &got.losses, &expected.losses[3..], 1e-5);
        assert!(names(&run_dir.join("checkpoints")).iter().any(|name| name.ends_with("-damaged")));
    });
}

#[test]
fn of_another_format_are_refused() {
    within_limit(|| {
        let folder = tempfile::tempdir().unwrap();
        let path = save_in(folder.path(), &saving(), TP2);
        let mut state = json(&path.join("checkpoint.json"));
        assert_eq!(state["format"], 3);
        state["format"] = 2.into();
        std::fs::write(path.join("checkpoint.json"), state.to_string()).unwrap();
        let error = CheckpointFolder::open(&path).unwrap_err().to_string();
        assert!(error.contains("format 2, this program reads format 3"), "{error}");
    });
}
