//! Runs the commands of docs/slurm.md, in a folder with the repository's entries.

use std::{fs, os::unix::fs::symlink, path::Path};

use neva_tests::{
    Ended,
    document::{Step, steps},
    root, run, wait_for,
};

use crate::cluster::Cluster;

/// Comment above a block that is run here.
const NOTE: &str = "<!-- not run here: make e2e-slurm runs it -->";

fn execute(cluster: &Cluster, folder: &Path, step: &Step) -> Ended {
    let words: Vec<&str> = step.command.split_whitespace().collect();
    assert_eq!(words[0], "neva-run", "{}", step.command);
    let mut command = cluster.neva_run(&words[1..]);
    command.current_dir(folder);
    run(command)
}

#[test]
fn the_commands_of_the_document_work() {
    let cluster = Cluster::shared();
    let folder = cluster.dir.path().join("repository");
    fs::create_dir(&folder).unwrap();
    for name in ["recipes", "examples", "docs"] {
        symlink(root().join(name), folder.join(name)).unwrap();
    }
    let text = fs::read_to_string(root().join("docs/slurm.md")).unwrap();
    let steps = steps(&text, NOTE);
    assert!(steps.len() > 5, "{} commands", steps.len());
    for step in &steps {
        let ended = match &step.until {
            Some(until) => wait_for(&step.command, || {
                let ended = execute(&cluster, &folder, step);
                ended.stdout.contains(until.as_str()).then_some(ended)
            }),
            None => execute(&cluster, &folder, step).with_code(0),
        };
        step.check(&ended);
    }
}
