//! Remains of killed saves.

use super::{RunFolders, name};
use crate::setting::{files, names, within_limit};
use rustix::fs::{FlockOperation, flock};

/// They are removed if they belong to the run's name and no process writes them.
#[test]
fn remains_of_a_killed_save_are_removed_when_another_run_resumes() {
    within_limit(|| {
        let mut folders = RunFolders::new();
        folders.finetune.resume.resume_if_exists = true;
        let checkpoints = "runs/1/checkpoints";
        let parent = folders.path(checkpoints);
        folders.put(2, checkpoints);
        folders.put(3, checkpoints);
        for steps in [4, 5, 6] {
            let hidden = parent.join(format!(".{}.writing", name(steps)));
            std::fs::rename(folders.put(steps, checkpoints), hidden).unwrap();
        }
        std::fs::rename(folders.put(4, checkpoints), parent.join(".gone.removing")).unwrap();
        let markers = [3, 4, 5, 6].map(|steps| std::fs::File::create(parent.join(name(steps) + "-unfinished")).unwrap());
        // A running job writes the sixth step, and the third one again.
        for marker in [&markers[0], &markers[3]] {
            flock(marker, FlockOperation::NonBlockingLockExclusive).unwrap();
        }
        assert_eq!(folders.resumes_from("runs/2"), 2);
        let left = |steps: u64| [format!(".{}.writing", name(steps)), name(steps) + "-unfinished"];
        let mut expected = vec![name(2), name(3), name(3) + "-unfinished"];
        expected.extend(left(6));
        expected.sort();
        assert_eq!(names(&parent), expected);
        // It was killed, too. The third step, which it had saved before, is whole.
        drop(markers);
        std::fs::remove_dir_all(folders.path("runs/2")).unwrap();
        assert_eq!(folders.resumes_from("runs/3"), 3);
        assert_eq!(names(&parent), [name(2), name(3)]);
    });
}

#[test]
fn leftovers_are_removed_in_the_own_folder_only() {
    within_limit(|| {
        let mut folders = RunFolders::new();
        for run in ["runs/1", "others/1"] {
            let checkpoints = format!("{run}/checkpoints");
            folders.put(3, &checkpoints);
            for hidden in ["writing", "removing"] {
                let to = folders.path(&checkpoints).join(format!(".{}.{hidden}", name(5)));
                std::fs::rename(folders.put(5, &checkpoints), to).unwrap();
            }
            for unfinished in [3, 6] {
                std::fs::write(folders.path(&checkpoints).join(name(unfinished) + "-unfinished"), b"").unwrap();
            }
            folders.put(2, &checkpoints);
        }
        let before = files(&folders.path("others"));
        folders.finetune.resume.resume_if_exists = true;
        folders.finetune.resume.resume_from_directory = Some(folders.path("others"));
        assert_eq!(folders.resumes_from("elsewhere/1"), 3);
        assert!(files(&folders.path("others")) == before, "another run's folder was touched");
        // No other process saves in the own folder: the earlier checkpoint of the same name is whole.
        assert_eq!(folders.resumes_from("runs/1"), 3);
        let left: Vec<_> = names(&folders.path("runs/1/checkpoints"))
            .into_iter()
            .filter(|name| name.starts_with('.') || name.ends_with("-unfinished"))
            .collect();
        assert_eq!(left, Vec::<String>::new());
    });
}
