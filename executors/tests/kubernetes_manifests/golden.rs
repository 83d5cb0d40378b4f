//! Manifests as golden files. `UPDATE=1` writes them.

use std::{collections::BTreeSet, ffi::OsStr, fs, path::Path, process::Command};

use neva_executors::{Payload, Submission};
use serde_json::Value;

use crate::cases::cases;

fn folder() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kubernetes_manifests/golden")
}

fn manifests(submission: &Submission) -> &[Value] {
    let Payload::Manifests(manifests) = &submission.payload else {
        panic!("{:?}", submission.payload);
    };
    &manifests.manifests
}

fn yaml(submission: &Submission) -> String {
    let Payload::Manifests(manifests) = &submission.payload else {
        panic!("{:?}", submission.payload);
    };
    manifests.yaml().unwrap()
}

#[test]
fn manifests_are_those_of_the_golden_files() {
    let update = std::env::vars_os().any(|(name, _)| name == OsStr::new("UPDATE"));
    let mut names = BTreeSet::new();
    for case in cases() {
        let file = folder().join(format!("{}.yaml", case.name));
        let text = yaml(&case.submission);
        if update {
            fs::write(&file, &text).unwrap();
        }
        let golden = fs::read_to_string(&file).unwrap_or_default();
        assert_eq!(text, golden, "{}: run with UPDATE=1 and read the diff", file.display());
        names.insert(file);
    }
    let files: BTreeSet<_> = fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files, names, "each golden file belongs to a case");
}

/// docs/kubernetes.md shows the Job of one of them.
#[test]
fn the_document_shows_a_golden_job() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/kubernetes.md");
    let document = fs::read_to_string(file).unwrap();
    let golden = fs::read_to_string(folder().join("neva_tiny_2x2.yaml")).unwrap();
    let job = golden.split("---\n").last().unwrap();
    assert!(job.contains("kind: Job\n"));
    let shown = document.split("```yaml\n").find(|block| block.contains("kind: Job\n")).unwrap();
    assert_eq!(
        shown.split("```").next().unwrap(),
        job,
        "write the Job of the golden file into the document"
    );
}

#[test]
fn rendering_twice_gives_the_same_bytes() {
    for (first, second) in cases().iter().zip(cases()) {
        assert_eq!(yaml(&first.submission), yaml(&second.submission), "{}", first.name);
    }
}

/// The YAML means the same objects to a parser.
#[test]
fn the_yaml_holds_the_objects() {
    for case in cases() {
        let parsed: Vec<Value> = serde_saphyr::from_multiple(&yaml(&case.submission)).unwrap();
        assert_eq!(parsed, manifests(&case.submission), "{}", case.name);
    }
}

/// Every shell accepts the script of every pod.
#[test]
fn sh_accepts_every_script() {
    let dir = tempfile::tempdir().unwrap();
    for case in cases() {
        let objects = manifests(&case.submission);
        let map = objects.iter().find(|object| object["kind"] == "ConfigMap").unwrap();
        let file = dir.path().join(case.name);
        fs::write(&file, map["data"]["start.sh"].as_str().unwrap()).unwrap();
        for shell in ["sh", "bash"] {
            let output = Command::new(shell).arg("-n").arg(&file).output().unwrap();
            let errors = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "{}: {errors}", case.name);
        }
    }
}

/// Objects come before those that use them, and all have the labels by which they are found.
#[test]
fn objects_are_in_the_order_in_which_they_are_needed() {
    for case in cases() {
        let objects = manifests(&case.submission);
        let kinds: Vec<_> = objects.iter().map(|object| object["kind"].as_str().unwrap()).collect();
        let workload = *kinds.last().unwrap();
        assert!(["Job", "JobSet", "TrainJob"].contains(&workload), "{}: {kinds:?}", case.name);
        assert!(kinds.contains(&"ConfigMap"), "{}: {kinds:?}", case.name);
        for object in objects {
            let labels = &object["metadata"]["labels"];
            assert_eq!(labels["app.kubernetes.io/managed-by"], "neva-run");
            assert_eq!(labels["neva-run/job"], object["metadata"]["name"]);
        }
    }
}
