//! CPU ranks do not load NVIDIA's libraries.

use neva_tests::{neva_run, run, run_folder};
use std::process::Command;

/// A library that ends every process that loads it.
const POISON: &str = "#include <unistd.h>\n__attribute__((constructor)) static void end(void) { _exit(99); }\n";

#[test]
fn cpu_ranks_open_no_nccl() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("poison.c");
    std::fs::write(&source, POISON).unwrap();
    for name in ["libnccl.so.2", "libnccl.so", "libcuda.so", "libcuda.so.1"] {
        let status = Command::new("cc")
            .args(["-shared", "-fPIC", "-o"])
            .args([dir.path().join(name), source.clone()])
            .status()
            .unwrap();
        assert!(status.success());
    }
    let dir_setting = format!("dir={}", dir.path().display());
    let mut command = neva_run(&[
        "recipes/neva_tiny.yaml",
        "--set",
        &dir_setting,
        "--set",
        "name=cpu",
        "--set",
        "num_gpus_per_node=2",
        "--set",
        "finetune.trainer.max_steps=1",
        "--set",
        "finetune.trainer.accelerator=cpu",
    ]);
    command.env("LD_LIBRARY_PATH", dir.path());
    let _ = run(command).with_code(0);
    assert!(run_folder(dir.path(), "cpu").is_dir());
}
