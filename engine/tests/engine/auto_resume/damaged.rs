//! Damaged, unreadable and foreign checkpoints.

use super::{RunFolders, name};
use crate::setting::{copy, files, names, run, within_limit};
use std::path::Path;

type Damage = (&'static str, fn(&Path));

const DAMAGES: [Damage; 11] = [
    ("an empty folder", |path| {
        std::fs::remove_dir_all(path).unwrap();
        std::fs::create_dir(path).unwrap();
    }),
    ("a missing table", |path| {
        std::fs::remove_file(path.join("checkpoint.json")).unwrap()
    }),
    ("a missing seal", |path| {
        std::fs::remove_file(path.join("checkpoint.blake3")).unwrap()
    }),
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

pub(super) fn flip(path: &Path) {
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
fn an_own_damaged_checkpoint_is_renamed() {
    within_limit(|| {
        let folders = RunFolders::new();
        for (index, (what, damage)) in DAMAGES.iter().enumerate() {
            let own = format!("runs/{index}/checkpoints");
            folders.put(2, &own);
            let newest = folders.put(3, &own);
            damage(&newest);
            let damaged = files(&newest);
            assert_eq!(folders.resumes_from(&format!("runs/{index}")), 2, "{what}");
            let renamed = folders.path(&own).join(name(3) + "-damaged");
            assert!(files(&renamed) == damaged, "{what}: something was lost");
            // The third step was saved again, under its name.
            let names = names(&folders.path(&own));
            assert!(names.contains(&name(3)) && names.len() == 7, "{what}: {names:?}");
        }
    });
}

#[test]
fn a_damaged_checkpoint_of_another_run_is_skipped() {
    within_limit(|| {
        let mut folders = RunFolders::new();
        folders.finetune.resume.resume_if_exists = true;
        for (index, (what, damage)) in DAMAGES.iter().enumerate() {
            let other = format!("runs/{index}");
            folders.put(2, &format!("{other}/checkpoints"));
            let newest = folders.put(3, &format!("{other}/checkpoints"));
            damage(&newest);
            folders.finetune.resume.resume_from_directory = Some(folders.path(&other));
            let before = files(&folders.path(&other));
            assert_eq!(folders.resumes_from(&format!("elsewhere/{index}")), 2, "{what}");
            assert!(files(&folders.path(&other)) == before, "{what}: another run's folder was touched");
        }
    });
}

#[test]
fn a_named_damaged_checkpoint_is_refused() {
    within_limit(|| {
        let mut folders = RunFolders::new();
        for (index, (what, damage)) in DAMAGES.iter().enumerate() {
            let named = folders.put(3, &format!("named/{index}"));
            damage(&named);
            let before = files(&named);
            folders.finetune.resume.resume_from_path = Some(named.clone());
            folders.refused(&format!("runs/{index}"), &named.display().to_string());
            assert!(files(&named) == before, "{what}");
        }
    });
}

/// Starting over would lose checkpoints that may be repaired, so the user must allow it.
#[test]
fn the_run_is_refused_if_all_are_damaged() {
    within_limit(|| {
        let mut folders = RunFolders::new();
        let resume = &mut folders.finetune.resume;
        (resume.resume_if_exists, resume.resume_ignore_no_checkpoint) = (true, true);
        for (index, (what, damage)) in DAMAGES.iter().enumerate() {
            for run in ["own", "other"] {
                let runs = format!("{index} {run}");
                for steps in [2, 3] {
                    damage(&folders.put(steps, &format!("{runs}/1/checkpoints")));
                }
                let run_dir = if run == "own" { "1" } else { "2" };
                let run_dir = format!("{runs}/{run_dir}");
                let before = files(&folders.path(&format!("{runs}/1/checkpoints")));
                // Both are listed, and nothing is changed: a second attempt finds the same.
                for _ in 0..2 {
                    for steps in [2, 3] {
                        folders.refused(&run_dir, &format!("/{}", name(steps)));
                    }
                }
                let after = files(&folders.path(&format!("{runs}/1/checkpoints")));
                assert!(after == before, "{what}: {run} checkpoints were touched");
                folders.finetune.resume.resume_ignore_damaged = true;
                assert_eq!(folders.resumes_from(&run_dir), 0, "{what}");
                folders.finetune.resume.resume_ignore_damaged = false;
                let renamed = folders.path(&format!("{runs}/1/checkpoints")).join(name(3) + "-damaged");
                assert_eq!(renamed.is_dir(), run == "own", "{what}");
            }
        }
        // An attempt that asked for nothing is refused, too.
        folders.finetune.resume.resume_if_exists = false;
        flip(&folders.put(2, "retried/1/checkpoints").join("model.safetensors"));
        folders.refused("retried/1", "resume_ignore_damaged=true");
    });
}

/// An unreadable checkpoint may be whole: it is reported, never renamed, and the run does not start over.
#[test]
fn an_unreadable_checkpoint_is_not_a_missing_one() {
    type Obstacle = fn(&Path);
    // Errors that also occur for root.
    let table: Obstacle = |checkpoint| to_itself(&checkpoint.join("checkpoint.json"));
    let plan: Obstacle = |checkpoint| to_itself(&checkpoint.join("run.json"));
    let tensors: Obstacle = |checkpoint| to_itself(&checkpoint.join("model.safetensors"));
    let folder: Obstacle = |checkpoint| {
        let parent = checkpoint.parent().unwrap();
        std::fs::remove_dir_all(parent).unwrap();
        std::fs::write(parent, b"a file in folders of the checkpoints").unwrap();
    };
    let looped: Obstacle = |checkpoint| {
        let parent = checkpoint.parent().unwrap();
        std::fs::remove_dir_all(parent).unwrap();
        to_itself(parent);
    };
    within_limit(move || {
        let mut folders = RunFolders::new();
        let resume = &mut folders.finetune.resume;
        (resume.resume_if_exists, resume.resume_ignore_no_checkpoint) = (true, true);
        for (index, obstacle) in [table, plan, tensors, folder, looped].into_iter().enumerate() {
            let checkpoint = folders.put(3, &format!("{index}/1/checkpoints"));
            obstacle(&checkpoint);
            let reason = if index == 3 {
                "Not a directory"
            } else {
                "Too many levels of symbolic links"
            };
            folders.refused(&format!("{index}/2"), reason);
            folders.finetune.resume.resume_ignore_damaged = true;
            assert_eq!(folders.resumes_from(&format!("{index}/3")), 0, "obstacle {index}");
            folders.finetune.resume.resume_ignore_damaged = false;
        }
        for (index, obstacle) in [table, plan, tensors].into_iter().enumerate() {
            let own = format!("own {index}/1/checkpoints");
            folders.put(2, &own);
            let checkpoint = folders.put(3, &own);
            obstacle(&checkpoint);
            folders.finetune.trainer.max_steps = Some(2);
            let report = run(&folders.finetune, &folders.path(&format!("own {index}/1"))).unwrap();
            assert_eq!((report.steps, report.losses.len()), (2, 0), "obstacle {index}");
            assert!(checkpoint.is_dir(), "obstacle {index}: it was renamed");
            folders.finetune.trainer.max_steps = Some(7);
        }
        // The same holds for a named folder.
        folders.finetune.resume.resume_from_directory = Some(folders.path("3/1"));
        folders.refused("named", "Not a directory");
    });
}

/// Creates a link to itself.
fn to_itself(path: &Path) {
    let _ = std::fs::remove_file(path);
    std::os::unix::fs::symlink(path.file_name().unwrap(), path).unwrap();
}

#[test]
fn another_format_is_skipped_and_kept() {
    within_limit(|| {
        let folders = RunFolders::new();
        folders.put(2, "runs/1/checkpoints");
        let newer = folders.put(6, "runs/1/checkpoints");
        let table = std::fs::read_to_string(newer.join("checkpoint.json")).unwrap();
        std::fs::write(newer.join("checkpoint.json"), table.replace("\"format\": 3", "\"format\": 4")).unwrap();
        let other_format = newer.with_file_name("of a newer program");
        std::fs::rename(&newer, &other_format).unwrap();
        let before = files(&other_format);
        assert_eq!(folders.resumes_from("runs/1"), 2);
        assert!(files(&other_format) == before);
        // The run does not start over because of it.
        let alone = folders.path("runs/2/checkpoints").join(name(6));
        copy(&other_format, &alone);
        folders.refused("runs/2", "format 4, this program reads format 3");
    });
}
