//! Runs the commands of docs/slurm.md, in a folder with the repository's entries.
//!
//! The lines below a command must occur in its output in order, where `...` matches anything. A command with `# until TEXT` is
//! repeated until its output contains the text.

use std::{fs, os::unix::fs::symlink, path::Path};

use neva_tests::{Ended, root, run, wait_for};

use crate::cluster::Cluster;

/// Comment above a block that is run here.
const NOTE: &str = "<!-- not run here: make e2e-slurm runs it -->";

/// A command of the document and the lines below it.
struct Step {
    command: String,
    until: Option<String>,
    output: Vec<String>,
}

fn steps(text: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let (mut is_noted, mut is_open) = (false, false);
    for line in text.lines() {
        match line {
            NOTE => is_noted = true,
            "```console" => is_open = is_noted,
            "```" => (is_noted, is_open) = (false, false),
            line if is_open => match line.strip_prefix("$ ") {
                Some(command) => {
                    let (command, until) = match command.split_once(" # until ") {
                        Some((command, until)) => (command, Some(until.to_owned())),
                        None => (command, None),
                    };
                    steps.push(Step {
                        command: command.to_owned(),
                        until,
                        output: Vec::new(),
                    });
                }
                None => steps.last_mut().expect("output follows a command").output.push(line.to_owned()),
            },
            _ => {}
        }
    }
    steps
}

/// Returns true if the pieces of `expected` between `...` occur in `line` in order.
fn matches(expected: &str, line: &str) -> bool {
    let mut rest = line;
    expected.split("...").map(str::trim).all(|piece| match rest.split_once(piece) {
        Some((_, after)) => {
            rest = after;
            true
        }
        None => false,
    })
}

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
    let steps = steps(&text);
    assert!(steps.len() > 5, "{} commands", steps.len());
    for step in &steps {
        let ended = match &step.until {
            Some(until) => wait_for(&step.command, || {
                let ended = execute(&cluster, &folder, step);
                ended.stdout.contains(until.as_str()).then_some(ended)
            }),
            None => execute(&cluster, &folder, step).with_code(0),
        };
        let all = format!("{}\n{}", ended.stderr, ended.stdout);
        let mut lines = all.lines();
        for expected in &step.output {
            assert!(
                lines.any(|line| matches(expected, line)),
                "{}: no {expected:?} in\n{all}",
                step.command
            );
        }
    }
}
