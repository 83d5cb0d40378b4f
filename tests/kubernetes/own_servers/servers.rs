//! shellcheck accepts the scripts of the servers, and the start scripts of jobs.

use std::process::Command;

use neva_tests::root;

#[test]
fn shellcheck_accepts_the_scripts() {
    let folder = root().join("tests/kubernetes");
    let names = ["kube-build", "kube-up", "kube-down", "kube-node", "test-image", "with-servers"];
    let output = Command::new("shellcheck")
        .args([
            "--shell=bash",
            "--external-sources",
            "--severity=warning",
            "--exclude=SC1091,SC2034",
        ])
        .args(names)
        .current_dir(folder)
        .output()
        .expect("kube-up installs shellcheck");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}
