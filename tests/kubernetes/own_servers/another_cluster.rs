//! The tests of other clusters run with the rights that docs/kubernetes.md names, in one namespace, with a claim.

use std::{fs, process::Command};

use neva_tests::{root, run};

use crate::cluster::Cluster;

/// Comment above the commands that create the roles.
const NOTE: &str = "<!-- not run here: make e2e-kubernetes runs it with another namespace -->";
/// Tests that run here again. `make e2e-kubernetes` runs all with `NEVA_TEST_KUBECONFIG`.
const TESTS: [&str; 2] = ["objects", "results"];

#[test]
fn tests_of_other_clusters_need_the_rights_of_the_document() {
    let cluster = Cluster::shared();
    let namespace = format!("another-{}", std::process::id());
    cluster.create_namespace(&namespace);
    let folder = tempfile::tempdir_in(cluster.folder()).unwrap();
    cluster.apply(&format!(
        "{{apiVersion: v1, kind: PersistentVolume, metadata: {{name: {namespace}}}, spec: {{storageClassName: {namespace}, \
         capacity: {{storage: 1Gi}}, accessModes: [ReadWriteMany], hostPath: {{path: {}, type: Directory}}}}}}\n---\n\
         {{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {{name: runs, namespace: {namespace}}}, spec: {{\
         storageClassName: {namespace}, accessModes: [ReadWriteMany], resources: {{requests: {{storage: 1Gi}}}}}}}}\n---\n\
         {{apiVersion: v1, kind: ServiceAccount, metadata: {{name: tests, namespace: {namespace}}}}}",
        folder.path().display()
    ));
    let document = fs::read_to_string(root().join("docs/kubernetes.md")).unwrap();
    let block = document.split(NOTE).nth(1).unwrap().split("```").nth(1).unwrap();
    let commands: Vec<_> = block.lines().filter_map(|line| line.strip_prefix("$ kubectl ")).collect();
    assert_eq!(commands.len(), 2, "a role and its binding: {block}");
    for line in commands {
        let line = line
            .replace("--user=YOU", &format!("--serviceaccount={namespace}:tests"))
            .replace("training", &namespace);
        let words: Vec<_> = line.split_whitespace().collect();
        let mut command = cluster.kubectl(&words);
        command.current_dir(root());
        let _ = run(command).with_code(0);
    }
    let token = run(cluster.kubectl(&["create", "token", "tests", "-n", &namespace]))
        .with_code(0)
        .stdout;
    let admin = fs::read_to_string(cluster.kubeconfig()).unwrap();
    let lines = admin.lines().map(|line| match line.starts_with("users:") {
        true => format!("users: [{{name: user, user: {{token: \"{}\"}}}}]", token.trim()),
        false => line.replace("namespace: default", &format!("namespace: {namespace}")),
    });
    let kubeconfig = folder.path().join("kubeconfig");
    fs::write(&kubeconfig, lines.collect::<Vec<_>>().join("\n")).unwrap();

    let mut tests = Command::new(std::env::current_exe().unwrap());
    tests
        .args(TESTS)
        .args(["--skip", "own_servers::"])
        .env("NEVA_TEST_KUBECONFIG", kubeconfig)
        .env("NEVA_TEST_KUBE_IMAGE", &cluster.image)
        .env("NEVA_TEST_KUBE_CLAIM", "runs")
        .env_remove("NEVA_TEST_KUBE_STATE");
    let ended = run(tests).with_code(0);
    assert!(ended.stdout.contains(" 2 passed; 0 failed"), "{}", ended.stdout);
    for kind in ["namespace", "persistentvolume"] {
        let _ = run(cluster.kubectl(&["delete", kind, &namespace, "--wait=false"])).with_code(0);
    }
}
