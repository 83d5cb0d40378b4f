//! The suffix `-last` of the newest checkpoint.

use super::damaged::flip;
use super::{RunFolders, name};
use crate::setting::{names, run, within_limit};
use neva_engine::checkpoint::{CheckpointFolder, newest_checkpoint};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

fn last(folder: &Path) -> Vec<String> {
    names(folder).into_iter().filter(|name| name.ends_with("-last")).collect()
}

/// A kill may happen between publishing a checkpoint and adding the suffix `-last`.
#[test]
fn the_newest_has_the_last_suffix_after_a_kill_at_any_moment() {
    // Arguments: the previous checkpoint with the suffix, and the new one without it.
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
        let folders = RunFolders::new();
        for (index, (what, is_there, leave)) in moments.into_iter().enumerate() {
            // A run that continues, and a finished one, whose names only the start repairs.
            for (steps, end) in [(5, 7), (6, 6)] {
                let run_dir = folders.path(&format!("runs/{index}.{steps}"));
                let own = format!("runs/{index}.{steps}/checkpoints");
                let (parent, older, newer) = (folders.path(&own), folders.put(4, &own), folders.put(steps, &own));
                std::fs::rename(&older, called_last(&older)).unwrap();
                leave(&called_last(&older), &newer);
                let (newest, end) = if is_there { (steps, end) } else { (4, 7) };
                assert_eq!(CheckpointFolder::find(&run_dir).unwrap().steps_done(), newest, "{what}");
                let report = run(&folders.finetune, &run_dir).unwrap();
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

pub(super) fn called_last(checkpoint: &Path) -> PathBuf {
    checkpoint.with_file_name(format!("{}-last", checkpoint.file_name().unwrap().display()))
}

/// A reader sees whole checkpoints at every moment of a save, and never two with the suffix `-last`.
#[test]
fn two_checkpoints_never_have_the_last_suffix() {
    within_limit(|| {
        let folders = RunFolders::new();
        let parent = folders.path("runs/1/checkpoints");
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
                    let found = newest_checkpoint(std::slice::from_ref(&parent), |passed| panic!("{passed}"));
                    let found = found.map_or(0, |checkpoint| checkpoint.steps_done());
                    assert!(found >= steps, "{found} steps after {steps}");
                    (looks, steps) = (looks + 1, found);
                }
                looks
            });
            let report = run(&folders.finetune, &folders.path("runs/1"));
            over.store(true, Ordering::Relaxed);
            assert_eq!(report.unwrap().steps, 7);
            watch.join().unwrap()
        });
        assert!(looks > 7, "{looks} looks at seven saves");
    });
}

#[test]
fn a_checkpoint_renamed_while_it_is_read_is_found_again() {
    within_limit(|| {
        let folders = RunFolders::new();
        let (older, newer) = (folders.put(4, "runs"), folders.put(5, "runs"));
        flip(&newer.join("model.safetensors"));
        let renamed = older.with_file_name("renamed");
        let found = newest_checkpoint(&[folders.path("runs")], |_| {
            let _ = std::fs::rename(&older, &renamed);
        });
        assert_eq!(found.unwrap().path, renamed);
    });
}
