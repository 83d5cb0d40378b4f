//! Which checkpoint a run goes on from, and what becomes of those that are damaged or half written.

use crate::setting::{copy, files, names, run, small, within_limit};
use neva_engine::checkpoint::{CheckpointFolder, newest_checkpoint};
use neva_schemas::{Finetune, RestoreConfig, exit_class};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// Folders of runs, and checkpoints to put there: of each number of steps from 1 to 6.
struct Place {
    folder: tempfile::TempDir,
    finetune: Finetune,
}

impl Place {
    /// The run has a base of its own, so that it can name that one, too.
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

    /// Steps that were done already when a run of seven steps began.
    #[track_caller]
    fn goes_on_from(&self, run_dir: &str) -> u64 {
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
fn a_directory_is_one_of_checkpoints_of_a_run_or_of_runs() {
    within_limit(|| {
        let mut place = Place::new();
        place.put(3, "runs/1/checkpoints");
        place.put(5, "runs/1/checkpoints");
        place.put(4, "runs/2/checkpoints");
        place.finetune.resume.resume_if_exists = true;
        for (directory, steps) in [("runs/1/checkpoints", 5), ("runs/1", 5), ("runs/2", 4), ("runs", 5)] {
            place.finetune.resume.resume_from_directory = Some(place.path(directory));
            assert_eq!(place.goes_on_from(&format!("elsewhere/{directory}")), steps, "{directory}");
        }
        // Nothing there is a mistake, unless there is something else to start from.
        std::fs::create_dir(place.path("nothing")).unwrap();
        place.finetune.resume.resume_from_directory = Some(place.path("nothing"));
        assert_eq!(place.goes_on_from("elsewhere/restored"), 0);
        place.finetune.resume.restore_config = None;
        place.refused("elsewhere/refused", "there is no checkpoint under ");
        place.finetune.resume.resume_ignore_no_checkpoint = true;
        assert_eq!(place.goes_on_from("elsewhere/afresh"), 0);
    });
}

#[test]
fn the_own_folder_comes_first_then_the_named_one_then_the_newest() {
    within_limit(|| {
        let mut place = Place::new();
        for run in ["a", "b"] {
            place.put(2, &format!("runs/{run}/checkpoints"));
        }
        place.finetune.resume.resume_from_path = Some(place.put(3, "named"));
        place.put(5, "other/1/checkpoints");
        place.finetune.resume.resume_from_directory = Some(place.path("other"));
        place.finetune.resume.resume_if_exists = true;
        assert_eq!(place.goes_on_from("runs/a"), 2);
        assert_eq!(place.goes_on_from("runs/c"), 3);
        place.finetune.resume.resume_from_path = None;
        assert_eq!(place.goes_on_from("runs/d"), 5);
        // Without a directory, the newest of its siblings: one of those that just ended, with nothing left to do.
        place.finetune.resume.resume_from_directory = None;
        place.refused("runs/e", "already done: 7 steps of 7");
        (place.finetune.resume.resume_if_exists, place.finetune.log.ckpt.save_top_k) = (false, 0);
        assert_eq!(place.goes_on_from("runs/f"), 0);
    });
}

type Damage = (&'static str, fn(&Path));

const DAMAGES: [Damage; 8] = [
    ("a flipped bit", |path| flip(&path.join("model.safetensors"))),
    ("a flipped bit of the moments", |path| flip(&path.join("optimizer.safetensors"))),
    ("a truncated file", |path| truncate(&path.join("optimizer.safetensors"))),
    ("a missing file", |path| {
        std::fs::remove_file(path.join("model.safetensors")).unwrap()
    }),
    ("a missing plan", |path| std::fs::remove_file(path.join("run.json")).unwrap()),
    ("a truncated plan", |path| truncate(&path.join("run.json"))),
    ("a truncated table", |path| truncate(&path.join("checkpoint.json"))),
    ("another digit in the table", |path| {
        let table = std::fs::read_to_string(path.join("checkpoint.json")).unwrap();
        let changed = table.replace("\"consumed_samples\": ", "\"consumed_samples\": 1");
        assert_ne!(changed, table);
        std::fs::write(path.join("checkpoint.json"), changed).unwrap();
    }),
];

fn flip(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let last = bytes.len() - 3;
    bytes[last] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

fn truncate(path: &Path) {
    let bytes = std::fs::read(path).unwrap();
    std::fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
}

#[test]
fn a_damaged_checkpoint_of_its_own_is_put_aside() {
    within_limit(|| {
        let place = Place::new();
        for (index, (what, damage)) in DAMAGES.iter().enumerate() {
            let own = format!("runs/{index}/checkpoints");
            place.put(2, &own);
            let newest = place.put(3, &own);
            damage(&newest);
            let damaged = files(&newest);
            assert_eq!(place.goes_on_from(&format!("runs/{index}")), 2, "{what}");
            let aside = place.path(&own).join(name(3) + "-damaged");
            assert!(files(&aside) == damaged, "{what}: something was lost");
            // The third step was saved again, under its name.
            let names = names(&place.path(&own));
            assert!(names.contains(&name(3)) && names.len() == 7, "{what}: {names:?}");
        }
    });
}

#[test]
fn a_damaged_checkpoint_of_others_is_passed_over() {
    within_limit(|| {
        let mut place = Place::new();
        place.finetune.resume.resume_if_exists = true;
        for (index, (what, damage)) in DAMAGES.iter().enumerate() {
            let other = format!("runs/{index}");
            place.put(2, &format!("{other}/checkpoints"));
            let newest = place.put(3, &format!("{other}/checkpoints"));
            damage(&newest);
            place.finetune.resume.resume_from_directory = Some(place.path(&other));
            let before = files(&place.path(&other));
            assert_eq!(place.goes_on_from(&format!("elsewhere/{index}")), 2, "{what}");
            assert!(files(&place.path(&other)) == before, "{what}: another run's folder was touched");
        }
    });
}

#[test]
fn a_damaged_checkpoint_that_is_named_is_refused() {
    within_limit(|| {
        let mut place = Place::new();
        for (index, (what, damage)) in DAMAGES.iter().enumerate() {
            let named = place.put(3, &format!("named/{index}"));
            damage(&named);
            let before = files(&named);
            place.finetune.resume.resume_from_path = Some(named.clone());
            place.refused(&format!("runs/{index}"), &named.display().to_string());
            assert!(files(&named) == before, "{what}");
        }
    });
}

#[test]
fn where_all_are_damaged_the_run_starts_afresh_and_loses_nothing() {
    within_limit(|| {
        let mut place = Place::new();
        for steps in [2, 3] {
            flip(&place.put(steps, "runs/1/checkpoints").join("model.safetensors"));
            flip(&place.put(steps, "others/1/checkpoints").join("model.safetensors"));
        }
        assert_eq!(place.goes_on_from("runs/1"), 0);
        for steps in [2, 3] {
            assert!(place.path("runs/1/checkpoints").join(name(steps) + "-damaged").is_dir());
        }
        // Others' are no more than none at all.
        place.finetune.resume.restore_config = None;
        place.finetune.resume.resume_if_exists = true;
        place.refused("others/2", "there is no checkpoint under ");
    });
}

#[test]
fn another_format_is_passed_over_and_kept() {
    within_limit(|| {
        let place = Place::new();
        place.put(2, "runs/1/checkpoints");
        let newer = place.put(6, "runs/1/checkpoints");
        let table = std::fs::read_to_string(newer.join("checkpoint.json")).unwrap();
        std::fs::write(newer.join("checkpoint.json"), table.replace("\"format\": 3", "\"format\": 4")).unwrap();
        let stranger = newer.with_file_name("of a newer program");
        std::fs::rename(&newer, &stranger).unwrap();
        let before = files(&stranger);
        assert_eq!(place.goes_on_from("runs/1"), 2);
        assert!(files(&stranger) == before);
    });
}

#[test]
fn leftovers_are_cleared_in_the_own_folder_only() {
    within_limit(|| {
        let mut place = Place::new();
        for run in ["runs/1", "others/1"] {
            let checkpoints = format!("{run}/checkpoints");
            place.put(3, &checkpoints);
            for hidden in ["writing", "removing"] {
                let to = place.path(&checkpoints).join(format!(".{}.{hidden}", name(5)));
                std::fs::rename(place.put(5, &checkpoints), to).unwrap();
            }
            for unfinished in [3, 6] {
                std::fs::write(place.path(&checkpoints).join(name(unfinished) + "-unfinished"), b"").unwrap();
            }
            place.put(2, &checkpoints);
        }
        // Whoever saved there may still be at it: the checkpoint beside a marker is not taken.
        let before = files(&place.path("others"));
        place.finetune.resume.resume_if_exists = true;
        place.finetune.resume.resume_from_directory = Some(place.path("others"));
        assert_eq!(place.goes_on_from("elsewhere/1"), 2);
        assert!(files(&place.path("others")) == before, "another run's folder was touched");
        // In its own folder nobody else saves: the earlier checkpoint of the same name is whole.
        assert_eq!(place.goes_on_from("runs/1"), 3);
        let left: Vec<_> = names(&place.path("runs/1/checkpoints"))
            .into_iter()
            .filter(|name| name.starts_with('.') || name.ends_with("-unfinished"))
            .collect();
        assert_eq!(left, Vec::<String>::new());
    });
}

fn last(folder: &Path) -> Vec<String> {
    names(folder).into_iter().filter(|name| name.ends_with("-last")).collect()
}

/// What a kill leaves between the moment at which a checkpoint is there and the one at which it is called the last.
#[test]
fn the_newest_is_the_last_after_a_kill_at_any_moment() {
    // Given the checkpoint before, which is called the last, and the new one, which is not.
    type Left = fn(&Path, &Path);
    let moments: [(&str, bool, Left); 4] = [
        ("before it is there", false, |_, newer| {
            let name = newer.file_name().unwrap().display();
            std::fs::rename(newer, newer.with_file_name(format!(".{name}-last.writing"))).unwrap();
            std::fs::write(newer.with_file_name(format!("{name}-last-unfinished")), b"").unwrap();
        }),
        ("once it is there", true, |_, _| {}),
        ("once the one before it is no longer the last", true, |older, _| {
            std::fs::rename(older, older.with_file_name(name(4))).unwrap();
        }),
        ("as an earlier version of the program left it", true, |_, newer| {
            std::fs::rename(newer, called_last(newer)).unwrap();
        }),
    ];
    within_limit(move || {
        let place = Place::new();
        for (index, (what, is_there, leave)) in moments.into_iter().enumerate() {
            // A run that goes on, and one that came to its end: only the start sets the names of that one right.
            for (steps, end) in [(5, 7), (6, 6)] {
                let run_dir = place.path(&format!("runs/{index}.{steps}"));
                let own = format!("runs/{index}.{steps}/checkpoints");
                let (parent, older, newer) = (place.path(&own), place.put(4, &own), place.put(steps, &own));
                std::fs::rename(&older, called_last(&older)).unwrap();
                leave(&called_last(&older), &newer);
                let (newest, end) = if is_there { (steps, end) } else { (4, 7) };
                assert_eq!(CheckpointFolder::find(&run_dir).unwrap().steps_done(), newest, "{what}");
                let report = run(&place.finetune, &run_dir).unwrap();
                assert_eq!((report.steps, report.losses.len() as u64), (end, end - newest), "{what}");
                assert_eq!(last(&parent), [name(end) + "-last"], "{what}");
                assert_eq!(report.checkpoint, Some(parent.join(name(end) + "-last")), "{what}");
                let names = names(&parent);
                assert!(
                    names.contains(&name(4)) && names.iter().all(|name| !name.starts_with('.')),
                    "{what}: {names:?}"
                );
            }
        }
    });
}

fn called_last(checkpoint: &Path) -> PathBuf {
    checkpoint.with_file_name(format!("{}-last", checkpoint.file_name().unwrap().display()))
}

/// Who looks on while a run saves sees whole checkpoints at every moment, and never two that are called the last.
#[test]
fn there_are_never_two_that_are_called_the_last() {
    within_limit(|| {
        let place = Place::new();
        let parent = place.path("runs/1/checkpoints");
        let over = AtomicBool::new(false);
        let looks = std::thread::scope(|scope| {
            let watch = scope.spawn(|| {
                let (mut looks, mut steps) = (0, 0);
                while !over.load(Ordering::Relaxed) {
                    if !parent.is_dir() {
                        continue;
                    }
                    let last = last(&parent);
                    assert!(last.len() <= 1, "{last:?}");
                    let found = newest_checkpoint(std::slice::from_ref(&parent), |path| panic!("{} is not whole", path.display()));
                    let found = found.map_or(0, |checkpoint| checkpoint.steps_done());
                    assert!(found >= steps, "{found} steps after {steps}");
                    (looks, steps) = (looks + 1, found);
                }
                looks
            });
            let report = run(&place.finetune, &place.path("runs/1"));
            over.store(true, Ordering::Relaxed);
            assert_eq!(report.unwrap().steps, 7);
            watch.join().unwrap()
        });
        assert!(looks > 7, "{looks} looks at seven saves");
    });
}

#[test]
fn one_that_is_renamed_while_it_is_read_is_found_again() {
    within_limit(|| {
        let place = Place::new();
        let (older, newer) = (place.put(4, "runs"), place.put(5, "runs"));
        flip(&newer.join("model.safetensors"));
        let renamed = older.with_file_name("renamed");
        let found = newest_checkpoint(&[place.path("runs")], |_| {
            let _ = std::fs::rename(&older, &renamed);
        });
        assert_eq!(found.unwrap().path, renamed);
    });
}

#[test]
fn links_that_lead_nowhere_are_passed_over() {
    within_limit(|| {
        let place = Place::new();
        place.put(3, "runs/1/checkpoints");
        // Where the last one was before the next took that name.
        for parent in ["runs/1/checkpoints", "runs"] {
            std::os::unix::fs::symlink(called_last(&place.path("gone")), place.path(parent).join("latest")).unwrap();
        }
        assert_eq!(place.goes_on_from("runs/1"), 3);
        assert_eq!(CheckpointFolder::find(&place.path("runs/1")).unwrap().steps_done(), 7);
    });
}

#[test]
fn weights_alone_are_nothing_to_go_on_from() {
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
        let mut place = Place { folder, finetune };
        place.finetune.trainer.max_steps = Some(7);
        place.finetune.resume.resume_from_path = Some(checkpoint.clone());
        place.refused("second", "holds weights only (save_weights_only)");
        place.finetune.resume.resume_from_path = None;
        place.finetune.resume.restore_config = Some(RestoreConfig::weights(checkpoint.display().to_string()));
        assert_eq!(place.goes_on_from("third"), 0);
    });
}
