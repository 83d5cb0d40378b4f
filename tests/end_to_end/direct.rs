//! Training in the same process.

use neva_tests::{finish, metrics, neva_run, run, run_folder, start};

#[test]
fn direct_trains_in_the_same_process() {
    let dir = tempfile::tempdir().unwrap();
    let at = format!("dir={}", dir.path().display());
    let mut command = neva_run(&[
        "recipes/neva_tiny.yaml",
        "--direct",
        "--set",
        "finetune.trainer.max_steps=5",
        "--set",
        &at,
        "--set",
        "name=direct",
    ]);
    // The rank prints its process id.
    command.env("NEVA_LOG", "debug");
    let child = start(command);
    let id = child.id();
    let ended = finish(child).with_code(0);
    assert!(
        ended.stderr.contains(&format!("rank 0 of 1 is process {id}")),
        "process {id}:\n{}",
        ended.stderr
    );
    assert_eq!(metrics(&run_folder(dir.path(), "direct"), "reduced_train_loss").len(), 5);
}

#[test]
fn direct_leaves_nothing_without_libtorch() {
    let dir = tempfile::tempdir().unwrap();
    // Found before the one in the run path.
    std::fs::write(dir.path().join("libtorch_cpu.so"), "no library").unwrap();
    let runs = dir.path().join("runs");
    let at = format!("dir={}", runs.display());
    let mut command = neva_run(&["recipes/neva_tiny.yaml", "--direct", "--set", &at]);
    command.env("LD_LIBRARY_PATH", dir.path());
    let ended = finish(start(command)).with_code(3);
    assert!(ended.stderr.contains("run `make setup`"), "{}", ended.stderr);
    assert!(!runs.exists());
}

#[test]
fn direct_with_several_ranks_needs_torchrun() {
    let ended = run(neva_run(&["recipes/neva_tiny.yaml", "--direct", "--set", "num_gpus_per_node=2"])).with_code(2);
    assert!(ended.stderr.contains("torchrun"), "{}", ended.stderr);
}
