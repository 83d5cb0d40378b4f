//! Runs the commands of docs/kubernetes.md, in a folder with the repository's entries.

use std::fs;

use neva_tests::{
    document::{repository, run_commands, shell},
    root, run,
};

use crate::cluster::Cluster;

/// Comment above a block that is run here.
const NOTE: &str = "<!-- not run here: make e2e-kubernetes runs it -->";

#[test]
fn the_commands_of_the_document_work() {
    let cluster = Cluster::shared();
    let space = cluster.default_space();
    let folder = repository(space.dir.path());
    let text = fs::read_to_string(root().join("docs/kubernetes.md")).unwrap();
    // The site's file is a block of the document.
    let yaml = text.split("```yaml\n").nth(1).unwrap().split("```").next().unwrap();
    fs::write(folder.join("site.yaml"), yaml).unwrap();
    run_commands(&text, NOTE, 5, |line| run(shell(&space.neva_run(&[]), &folder, line)));
    // The launcher in the background may not have read the last command.
    let _ = space.kubectl(&["delete", "jobs", "--all"]);
}
