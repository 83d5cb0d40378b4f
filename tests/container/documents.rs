//! Runs the commands of docs/containers.md, in a folder with the repository's entries.

use std::fs;

use neva_tests::{
    document::{repository, run_commands, shell},
    root, run,
};

use crate::machine::Machine;

/// Comment above a block that is run here.
const NOTE: &str = "<!-- not run here: make e2e-container runs it -->";

#[test]
fn the_commands_of_the_document_work() {
    let machine = Machine::new();
    let folder = repository(machine.dir.path());
    let text = fs::read_to_string(root().join("docs/containers.md")).expect("the document");
    run_commands(&text, NOTE, 5, |line| run(shell(&machine.neva_run(&[]), &folder, line)));
}
