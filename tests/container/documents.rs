//! Runs the commands of docs/containers.md, in a folder with the repository's entries.

use std::{fs, os::unix::fs::symlink, path::Path, process::Command};

use neva_tests::{Ended, document::run_commands, program, root, run};

use crate::machine::Machine;

/// Comment above a block that is run here.
const NOTE: &str = "<!-- not run here: make e2e-container runs it -->";

fn execute(machine: &Machine, folder: &Path, line: &str) -> Ended {
    let launcher = machine.neva_run(&[]);
    let mut command = Command::new("bash");
    command.args(["-euc", line]).current_dir(folder);
    for (name, value) in launcher.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let programs = program("neva-run");
    let programs = programs.parent().expect("a folder").display().to_string();
    let path = std::env::var_os("PATH").unwrap_or_default();
    command.env("PATH", format!("{programs}:{}", path.to_string_lossy()));
    run(command)
}

#[test]
fn the_commands_of_the_document_work() {
    let machine = Machine::new();
    let folder = machine.dir.path().join("repository");
    fs::create_dir(&folder).expect("a folder");
    for name in ["recipes", "examples", "docs"] {
        symlink(root().join(name), folder.join(name)).expect("a link");
    }
    let text = fs::read_to_string(root().join("docs/containers.md")).expect("the document");
    run_commands(&text, NOTE, 5, |line| execute(&machine, &folder, line));
}
