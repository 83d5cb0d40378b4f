//! Requests and scripts as golden files.

use std::{collections::BTreeSet, ffi::OsStr, fs, path::Path};

use neva_executors::Submission;

use crate::cases::{cases, request};

const FUNCTIONS: &str = include_str!("../../src/container/supervise.sh");

/// Returns the request, and the script without its functions, which are the same in each.
fn text(submission: &Submission) -> String {
    let script = &submission.files[Path::new("container.sh")];
    assert!(script.contains(FUNCTIONS), "the functions are in the script");
    let request = serde_json::to_string_pretty(request(submission)).unwrap();
    format!("{request}\n\n{}", script.replace(FUNCTIONS, "# ... functions ...\n"))
}

#[test]
fn requests_are_those_of_the_golden_files() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/container_requests/golden");
    let update = std::env::vars_os().any(|(name, _)| name == OsStr::new("UPDATE"));
    let mut names = BTreeSet::new();
    for (name, submission) in cases() {
        let (file, text) = (folder.join(format!("{name}.txt")), text(&submission.unwrap()));
        if update {
            fs::write(&file, &text).unwrap();
        }
        let golden = fs::read_to_string(&file).unwrap_or_default();
        assert_eq!(text, golden, "{}: run with UPDATE=1 and read the diff", file.display());
        names.insert(file);
    }
    let files: BTreeSet<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files, names, "each golden file belongs to a case");
}

#[test]
fn rendering_twice_gives_the_same_bytes() {
    for ((name, first), (_, second)) in cases().into_iter().zip(cases()) {
        assert_eq!(first.unwrap(), second.unwrap(), "{name}");
    }
}
