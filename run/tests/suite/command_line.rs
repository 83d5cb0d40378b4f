//! The program in unusual environments: pipes, homes, and long variables.

use std::{
    ffi::OsStr,
    fs,
    io::Write as _,
    os::unix::ffi::OsStrExt as _,
    path::Path,
    process::{Command, Output, Stdio},
};

use crate::fake_rank;

/// Returns the program in `dir`, with a home below it.
fn neva_run(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_neva-run"));
    command
        .args(arguments)
        .current_dir(dir)
        .env("NEVA_RANK", fake_rank())
        .env("HOME", dir.join("home"))
        .env_remove("NEVA_RUN_HOME")
        .env_remove("NEMORUN_HOME")
        .stdin(Stdio::null());
    command
}

fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

#[test]
fn a_recipe_from_a_pipe_is_read_once() {
    for arguments in [
        &["/dev/stdin", "--dry-run"][..],
        &["show", "/dev/stdin"],
        &["validate", "/dev/stdin"],
        &["render", "/dev/stdin", "--out", "rendered"],
        &["/dev/stdin", "--to-yaml", "-"],
        &["/dev/stdin", "--set", "dir=runs"],
        &["/dev/stdin", "--sweep", "finetune.optim.lr=1e-3,2e-3", "--dry-run"],
    ] {
        let dir = tempfile::tempdir().unwrap();
        let mut child = neva_run(dir.path(), arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(b"_factory_: neva_tiny\nname: piped\n")
            .unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", text(&output));
    }
}

#[test]
fn a_tilde_expands_to_the_home() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().canonicalize().unwrap().join("home");
    let output = neva_run(dir.path(), &["neva_tiny", "--set", "dir=~/runs"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert!(
        home.join("runs/default").is_dir() && !dir.path().join("~").exists(),
        "{}",
        text(&output)
    );
    fs::write(dir.path().join("neva.yaml"), "dir: ~/of_the_team\n").unwrap();
    let data = "finetune.data={_target_: vlm.NevaPreloadedDataModule, paths: ~/data.json, tokenizer: ~/tokenizer, global_batch_size: 8, data_config: {image_folder: ~/images}}";
    let output = neva_run(dir.path(), &["neva_tiny", "--dry-run", "--output", "json", "--set", data])
        .output()
        .unwrap();
    let plan: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output)));
    let plan = &plan["plan"];
    let data = &plan["run"]["finetune"]["data"]["vlm.NevaPreloadedDataModule"];
    for (value, path) in [
        (&plan["run"]["dir"], "of_the_team"),
        (&data["paths"][0], "data.json"),
        (&data["tokenizer"], "tokenizer"),
        (&data["data_config"]["image_folder"], "images"),
    ] {
        assert_eq!(Path::new(value.as_str().unwrap()), home.join(path));
    }
    let output = neva_run(dir.path(), &["neva_tiny", "--dry-run"])
        .env_remove("HOME")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    assert!(text(&output).contains("HOME is not set"), "{}", text(&output));
}

#[test]
fn a_home_that_is_not_utf8_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let home = &dir.path().join(OsStr::from_bytes(b"neva-\xff"));
    let output = neva_run(dir.path(), &["experiment", "list"]).env("HOME", home).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    assert!(
        text(&output).contains("HOME names a folder whose path is not UTF-8"),
        "{}",
        text(&output)
    );
    // A run needs no home.
    let output = neva_run(dir.path(), &["neva_tiny"]).env("HOME", home).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
}

#[test]
fn a_variable_that_is_too_long_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    // Linux limits a variable to 128 KiB.
    let long = "x".repeat(200_000);
    let executor = format!("_target_: run.LocalExecutor\nenv_vars: {{SHORT: a, MUCH_TOO_LONG: {long}}}\n");
    fs::write(dir.path().join("executor.yaml"), executor).unwrap();
    let output = neva_run(dir.path(), &["neva_tiny", "--executor", "executor.yaml"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    assert!(text(&output).contains("MUCH_TOO_LONG"), "{}", text(&output));
}

#[test]
fn commands_are_printed_without_a_folder() {
    let dir = tempfile::tempdir().unwrap();
    let output = neva_run(dir.path(), &["render", "neva_tiny"]).output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", text(&output));
    assert!(printed.contains(" train --plan ") && printed.contains("plan.json"), "{printed}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is written");
}

#[test]
fn executors_that_are_not_built_yet_are_refused() {
    for executor in ["kubeflow"] {
        for command in [&["neva_tiny"][..], &["render", "neva_tiny"]] {
            let dir = tempfile::tempdir().unwrap();
            let output = neva_run(dir.path(), command).args(["--executor", executor]).output().unwrap();
            assert_eq!(output.status.code(), Some(2), "{command:?}: {}", text(&output));
            assert!(text(&output).contains("not supported yet"), "{command:?}: {}", text(&output));
            assert!(!dir.path().join("nemo_experiments").exists());
        }
    }
}
