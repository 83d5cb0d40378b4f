//! shellcheck has nothing to say about the golden batch scripts.

use neva_tests::root;
use std::fs;
use std::process::Command;

#[test]
fn shellcheck_accepts_every_golden_script() {
    for folder in ["executors/tests/slurm_scripts/golden", "run/tests/sites"] {
        let scripts: Vec<_> = fs::read_dir(root().join(folder))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        assert!(scripts.len() >= 3, "{folder}: {scripts:?}");
        let output = Command::new("shellcheck").arg("--shell=bash").args(&scripts).output();
        let output = output.expect("with-servers installs shellcheck");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
}
