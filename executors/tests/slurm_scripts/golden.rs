//! Scripts as golden files. `UPDATE=1` writes them.

use std::{collections::BTreeSet, ffi::OsStr, fs, path::Path, process::Command};

use neva_executors::{
    JobKind, Payload, Submission,
    slurm::render::{BATCH_FILE, Work, render_array},
};
use neva_schemas::LaunchPlan;
use serde_json::json;

use crate::cases::{PROGRAM, cases, config, tiny};

fn text(submission: &Submission) -> &str {
    &submission.files[Path::new(BATCH_FILE)]
}

fn folder() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/slurm_scripts/golden")
}

#[test]
fn scripts_are_those_of_the_golden_files() {
    let update = std::env::vars_os().any(|(name, _)| name == OsStr::new("UPDATE"));
    let mut names = BTreeSet::new();
    for case in cases() {
        let file = folder().join(format!("{}.sbatch", case.name));
        if update {
            fs::write(&file, text(&case.submission)).unwrap();
        }
        let golden = fs::read_to_string(&file).unwrap_or_default();
        assert_eq!(
            text(&case.submission),
            golden,
            "{}: run with UPDATE=1 and read the diff",
            file.display()
        );
        names.insert(file);
    }
    let files: BTreeSet<_> = fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files, names, "each golden file belongs to a case");
}

#[test]
fn rendering_twice_gives_the_same_bytes() {
    for (first, second) in cases().iter().zip(cases()) {
        assert_eq!(first.submission, second.submission, "{}", first.name);
    }
}

#[test]
fn bash_accepts_every_script() {
    let dir = tempfile::tempdir().unwrap();
    for case in cases() {
        let file = dir.path().join(case.name);
        fs::write(&file, text(&case.submission)).unwrap();
        let output = Command::new("bash").arg("-n").arg(&file).output().unwrap();
        assert!(
            output.status.success(),
            "{}: {}",
            case.name,
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

#[test]
fn options_of_sbatch_are_sorted_and_above_every_command() {
    for case in cases() {
        let mut lines = text(&case.submission).lines().peekable();
        let head: Vec<_> = std::iter::from_fn(|| lines.next_if(|line| line.is_empty() || line.starts_with('#'))).collect();
        let options: Vec<_> = head.iter().filter(|line| line.starts_with("#SBATCH ")).collect();
        assert!(options.len() >= 6, "{}: {options:?}", case.name);
        for component in options.split(|line| **line == "#SBATCH hetjob") {
            assert!(component.is_sorted(), "{}: {component:?}", case.name);
        }
        assert!(lines.all(|line| !line.starts_with("#SBATCH ")), "{}", case.name);
    }
}

#[test]
fn a_submission_names_its_script_and_keeps_its_files() {
    for case in cases() {
        let Payload::BatchScript(batch) = &case.submission.payload else {
            panic!("{}: {:?}", case.name, case.submission.payload);
        };
        let script = case.submission.dir.join(BATCH_FILE).display().to_string();
        assert_eq!(batch.submit_argv.first().map(String::as_str), Some("sbatch"));
        assert_eq!(batch.submit_argv.last(), Some(&script));
    }
}

#[test]
fn an_array_of_10_000_tasks_has_a_plan_for_each() {
    let root = Path::new("/scratch/sweep");
    let first = tiny(&root.join("tasks/0"), 1, 1);
    let plans: Vec<LaunchPlan> = (0..10_000)
        .map(|number| LaunchPlan {
            run_dir: root.join(format!("tasks/{number}")),
            ..first.clone()
        })
        .collect();
    let works: Vec<_> = plans.iter().map(Work::Ranks).collect();
    let submission = render_array(&config(&json!({})), "sweep", root, &works, Some(50), Path::new(PROGRAM)).unwrap();
    assert_eq!((submission.files.len(), submission.kind), (10_002, JobKind::Ranks));
    assert!(text(&submission).contains("#SBATCH --array=0-9999%50\n"));
    let plan: LaunchPlan = serde_json::from_str(&submission.files[Path::new("tasks/9999/plan.json")]).unwrap();
    assert_eq!(plan, plans[9_999]);
    let tasks = &submission.files[Path::new("tasks.txt")];
    assert_eq!(tasks.lines().count(), 10_000);
    assert!(tasks.ends_with("/scratch/sweep/tasks/9999\n"));
}
