//! Runs the commands of docs/slurm.md, in a folder with the repository's entries.

use std::fs;

use neva_tests::{
    document::{repository, run_commands},
    root, run,
};

use crate::cluster::Cluster;

/// Comment above a block that is run here.
const NOTE: &str = "<!-- not run here: make e2e-slurm runs it -->";

#[test]
fn the_commands_of_the_document_work() {
    let cluster = Cluster::shared();
    let folder = repository(cluster.dir.path());
    let text = fs::read_to_string(root().join("docs/slurm.md")).unwrap();
    run_commands(&text, NOTE, 5, |line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(words[0], "neva-run", "{line}");
        let mut command = cluster.neva_run(&words[1..]);
        command.current_dir(&folder);
        run(command)
    });
}
