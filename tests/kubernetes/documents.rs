//! Runs the commands of docs/kubernetes.md, in a folder with the repository's entries.

use std::{fs, os::unix::fs::symlink};

use neva_tests::{document::run_commands, program, root, run};

use crate::cluster::Cluster;

/// Comment above a block that is run here.
const NOTE: &str = "<!-- not run here: make e2e-kubernetes runs it -->";

#[test]
fn the_commands_of_the_document_work() {
    let cluster = Cluster::shared();
    let space = cluster.default_space();
    let folder = space.dir.path().join("repository");
    fs::create_dir(&folder).unwrap();
    for name in ["recipes", "examples", "docs"] {
        symlink(root().join(name), folder.join(name)).unwrap();
    }
    let text = fs::read_to_string(root().join("docs/kubernetes.md")).unwrap();
    // The site's file is a block of the document.
    let yaml = text.split("```yaml\n").nth(1).unwrap().split("```").next().unwrap();
    fs::write(folder.join("site.yaml"), yaml).unwrap();
    let neva_run = program("neva-run");
    let path = format!("{}:{}", neva_run.parent().unwrap().display(), std::env::var("PATH").unwrap());
    run_commands(&text, NOTE, 5, |line| {
        let mut command = space.neva_run(&[]);
        // A shell, for pipes to kubectl.
        let mut shell = std::process::Command::new("sh");
        shell.args(["-euc", line]).current_dir(&folder).env("PATH", &path);
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => shell.env(name, value),
                None => shell.env_remove(name),
            };
        }
        command = shell;
        run(command)
    });
    // The launcher in the background may not have read the last command.
    let _ = space.kubectl(&["delete", "jobs", "--all"]);
}
