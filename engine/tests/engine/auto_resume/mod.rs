//! The checkpoint that a run resumes from, and the treatment of damaged and incomplete ones.

mod damaged;
mod killed;
mod last_suffix;

use crate::setting::{ONE, copy, names, on_mesh, run, small, within_limit};
use damaged::flip;
use last_suffix::called_last;
use neva_engine::checkpoint::{CheckpointFolder, choose_checkpoint, newest_checkpoint};
use neva_schemas::{Finetune, ParallelSizes, RestoreConfig, exit_class};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

/// Folders of runs, and checkpoints after 1 to 6 steps to put there.
struct RunFolders {
    folder: tempfile::TempDir,
    finetune: Finetune,
}

impl RunFolders {
    /// The run has its own base, so that it can also name that one.
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut finetune = small();
        finetune.trainer.max_steps = Some(1);
        let base = run(&finetune, &folder.path().join("base")).unwrap().checkpoint.unwrap();
        finetune.resume.restore_config = Some(RestoreConfig::weights(base.display().to_string()));
        (finetune.log.ckpt.every_n_train_steps, finetune.log.ckpt.save_top_k) = (Some(1), -1);
        finetune.trainer.max_steps = Some(6);
        run(&finetune, &folder.path().join("source")).unwrap();
        finetune.trainer.max_steps = Some(7);
        Self { folder, finetune }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    /// Puts the checkpoint after `steps` steps into a folder of checkpoints.
    fn put(&self, steps: u64, parent: &str) -> PathBuf {
        let last = if steps == 6 { "-last" } else { "" };
        let to = self.path(parent).join(name(steps));
        copy(&self.path("source/checkpoints").join(name(steps) + last), &to);
        to
    }

    /// Returns the completed steps when a run of seven steps starts.
    #[track_caller]
    fn resumes_from(&self, run_dir: &str) -> u64 {
        let report = run(&self.finetune, &self.path(run_dir)).unwrap();
        assert_eq!(report.steps, 7);
        7 - report.losses.len() as u64
    }

    #[track_caller]
    fn refused(&self, run_dir: &str, expect: &str) {
        let failure = run(&self.finetune, &self.path(run_dir)).unwrap_err();
        assert_eq!(failure.class, exit_class::INPUT, "{failure}");
        assert!(failure.to_string().contains(expect), "{failure}\nlacks: {expect}");
    }
}

fn name(steps: u64) -> String {
    format!("default--step={}-consumed_samples={}", steps - 1, 8 * steps)
}

#[test]
fn a_directory_may_hold_checkpoints_a_run_or_runs() {
    within_limit(|| {
        let mut folders = RunFolders::new();
        folders.put(3, "runs/1/checkpoints");
        folders.put(5, "runs/1/checkpoints");
        folders.put(4, "runs/2/checkpoints");
        folders.finetune.resume.resume_if_exists = true;
        for (directory, steps) in [("runs/1/checkpoints", 5), ("runs/1", 5), ("runs/2", 4), ("runs", 4)] {
            folders.finetune.resume.resume_from_directory = Some(folders.path(directory));
            assert_eq!(folders.resumes_from(&format!("elsewhere/{directory}")), steps, "{directory}");
        }
        // A missing folder is an error, even with another source of weights.
        folders.finetune.resume.resume_from_directory = Some(folders.path("no/such"));
        folders.refused("elsewhere/missing", "no/such does not exist");
        folders.finetune.resume.resume_ignore_no_checkpoint = true;
        assert_eq!(folders.resumes_from("elsewhere/missing and ignored"), 0);
        folders.finetune.resume.resume_ignore_no_checkpoint = false;
        // An empty folder is an error, unless there is another source of weights.
        std::fs::create_dir(folders.path("nothing")).unwrap();
        folders.finetune.resume.resume_from_directory = Some(folders.path("nothing"));
        assert_eq!(folders.resumes_from("elsewhere/restored"), 0);
        folders.finetune.resume.restore_config = None;
        folders.refused("elsewhere/refused", "there is no checkpoint under ");
        folders.finetune.resume.resume_ignore_no_checkpoint = true;
        assert_eq!(folders.resumes_from("elsewhere/afresh"), 0);
    });
}

#[test]
fn the_own_folder_precedes_the_named_one_and_the_newest() {
    within_limit(|| {
        let mut folders = RunFolders::new();
        for run in ["a", "b"] {
            folders.put(2, &format!("runs/{run}/checkpoints"));
        }
        folders.finetune.resume.resume_from_path = Some(folders.put(3, "named"));
        folders.put(5, "other/1/checkpoints");
        folders.finetune.resume.resume_from_directory = Some(folders.path("other"));
        folders.finetune.resume.resume_if_exists = true;
        assert_eq!(folders.resumes_from("runs/a"), 2);
        assert_eq!(folders.resumes_from("runs/c"), 3);
        folders.finetune.resume.resume_from_path = None;
        assert_eq!(folders.resumes_from("runs/d"), 5);
        // Without a directory, the newest sibling counts: one that just ended, with no step left.
        folders.finetune.resume.resume_from_directory = None;
        folders.refused("runs/e", "already done: 7 steps of 7");
        (folders.finetune.resume.resume_if_exists, folders.finetune.log.ckpt.save_top_k) = (false, 0);
        assert_eq!(folders.resumes_from("runs/f"), 0);
    });
}

#[test]
fn the_newest_of_several_runs_counts() {
    within_limit(|| {
        let mut folders = RunFolders::new();
        folders.finetune.resume.resume_if_exists = true;
        // Runs are ordered by the dates in their names, not by file times. A twin of the same second comes later.
        for (index, runs) in [
            ["2026-01-02_00-00-00", "2026-01-01_00-00-00"],
            ["2026-01-02_00-00-00-10", "2026-01-02_00-00-00-9"],
            ["2026-01-02_00-00-00-1", "2026-01-02_00-00-00"],
        ]
        .into_iter()
        .enumerate()
        {
            for (run, steps) in runs.into_iter().zip([3, 5]) {
                folders.put(steps, &format!("{index}/{run}/checkpoints"));
            }
            folders.finetune.resume.resume_from_directory = Some(folders.path(&index.to_string()));
            assert_eq!(folders.resumes_from(&format!("elsewhere/{index}")), 3, "{runs:?}");
        }
        // Renamed runs are ordered by the time of the last checkpoint.
        for (run, steps, seconds) in [("b", 5, 1000), ("c", 4, 2000), ("a", 3, 3000)] {
            let table = folders.put(steps, &format!("others/{run}/checkpoints")).join("checkpoint.json");
            let written = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            std::fs::File::options()
                .write(true)
                .open(table)
                .unwrap()
                .set_modified(written)
                .unwrap();
        }
        folders.finetune.resume.resume_from_directory = Some(folders.path("others"));
        assert_eq!(folders.resumes_from("elsewhere/others"), 3);
        // A run without a usable checkpoint is skipped.
        flip(&folders.path("others/a/checkpoints").join(name(3)).join("model.safetensors"));
        assert_eq!(folders.resumes_from("elsewhere/others again"), 4);
    });
}

#[test]
fn a_checkpoint_that_vanishes_during_the_choice_is_skipped() {
    within_limit(|| {
        let folders = RunFolders::new();
        let (older, newer) = (folders.put(4, "runs"), folders.put(5, "runs"));
        let chosen = on_mesh(ParallelSizes { dp: 2, ..ONE }, |mesh| {
            choose_checkpoint(&mesh, || {
                let found = newest_checkpoint(&[folders.path("runs")], |passed| panic!("{passed}"));
                // As a running job does that frees its disk.
                let _ = std::fs::remove_dir_all(&newer);
                Ok(found.map(|checkpoint| checkpoint.path))
            })
            .unwrap()
            .map(|checkpoint| checkpoint.path)
        });
        assert_eq!(chosen, [Some(older.clone()), Some(older)]);
        // A checkpoint that exists and cannot be opened is not chosen repeatedly.
        let errors = on_mesh(ParallelSizes { dp: 2, ..ONE }, |mesh| {
            choose_checkpoint(&mesh, || Ok(Some(folders.path("base")))).unwrap_err().to_string()
        });
        assert!(errors.iter().all(|error| error.contains("checkpoint.json")), "{errors:?}");
    });
}

#[test]
fn broken_links_are_skipped() {
    within_limit(|| {
        let folders = RunFolders::new();
        folders.put(3, "runs/1/checkpoints");
        // The former path of the last checkpoint.
        for parent in ["runs/1/checkpoints", "runs"] {
            std::os::unix::fs::symlink(called_last(&folders.path("gone")), folders.path(parent).join("latest")).unwrap();
        }
        assert_eq!(folders.resumes_from("runs/1"), 3);
        assert_eq!(CheckpointFolder::find(&folders.path("runs/1")).unwrap().steps_done(), 7);
    });
}

#[test]
fn weights_alone_cannot_be_resumed() {
    within_limit(|| {
        let folder = tempfile::tempdir().unwrap();
        let mut finetune = small();
        finetune.trainer.max_steps = Some(2);
        finetune.log.ckpt.save_weights_only = true;
        let checkpoint = run(&finetune, &folder.path().join("first")).unwrap().checkpoint.unwrap();
        assert_eq!(
            names(&checkpoint),
            ["checkpoint.blake3", "checkpoint.json", "model.safetensors", "run.json"]
        );
        let mut folders = RunFolders { folder, finetune };
        folders.finetune.trainer.max_steps = Some(7);
        folders.finetune.resume.resume_from_path = Some(checkpoint.clone());
        folders.refused("second", "holds weights only (save_weights_only)");
        folders.finetune.resume.resume_from_path = None;
        folders.finetune.resume.restore_config = Some(RestoreConfig::weights(checkpoint.display().to_string()));
        assert_eq!(folders.resumes_from("third"), 0);
    });
}
