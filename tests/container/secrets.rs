//! Secrets of the launcher's environment reach the ranks, and nothing that others can read.

use std::fs;

use crate::machine::{Machine, files, podman};

const SECRET: &str = "hf_Do'Not Show$This\"Token1234567890";

#[test]
fn a_secret_reaches_the_job_no_file_and_no_inspection() {
    let machine = Machine::new();
    let script = format!(
        "[ ${{#HF_TOKEN}} = {} ] || exit 3; echo the token is here; env | grep -c HF_TOKEN",
        SECRET.len()
    );
    let text = format!("name: secret\ntasks:\n  look:\n    task: {{_target_: run.Script, entrypoint: sh, inline: '{script}'}}\n");
    let file = machine.dir.path().join("experiment.yaml");
    fs::write(&file, text).expect("the file can be written");
    let executor = machine.executor(&format!("env_from: [HF_TOKEN]\nvolumes: [{}]", neva_tests::root().display()));
    let mut command = machine.neva_run(&[&file.display().to_string(), "--executor", &executor]);
    command.env("HF_TOKEN", SECRET).env("NEVA_LOG", "trace");
    let ended = neva_tests::run(command).with_code(0);
    assert!(!ended.stderr.contains("Token1234567890") && !ended.stdout.contains("Token1234567890"));
    let logs = machine.run(&["experiment", "logs", "secret"]).with_code(0).stdout;
    assert!(logs.contains("the token is here"), "{logs}");
    let names = machine.containers();
    assert!(!names.is_empty());
    for name in names {
        let shown = podman(&["inspect", &name]).with_code(0).stdout;
        assert!(shown.contains("neva-run.folder") && !shown.contains("Token1234567890"), "{shown}");
    }
    let holding: Vec<_> = files(machine.dir.path())
        .into_iter()
        .filter(|file| String::from_utf8_lossy(&fs::read(file).unwrap_or_default()).contains("Token1234567890"))
        .collect();
    assert!(holding.is_empty(), "{holding:?}");
}
