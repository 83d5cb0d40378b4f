//! Runs the commands of a document.
//!
//! The lines below a command must occur in its output in order, where `...` matches anything. A command with `# until TEXT` is
//! repeated until its output contains the text.

use std::{
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{Ended, program, root, wait_for};

/// A command of a document and the lines below it.
struct Step {
    command: String,
    until: Option<String>,
    output: Vec<String>,
}

/// Makes the folder `repository` in `parent`, with the repository's entries that documents name.
///
/// # Panics
/// If it cannot be made.
pub fn repository(parent: &Path) -> PathBuf {
    let folder = parent.join("repository");
    std::fs::create_dir(&folder).expect("a new folder");
    for name in ["recipes", "examples", "docs"] {
        symlink(root().join(name), folder.join(name)).expect("a link");
    }
    folder
}

/// Returns a shell that runs a command of a document in `folder`, with the variables of `launcher` and the built programs in PATH.
pub fn shell(launcher: &Command, folder: &Path, line: &str) -> Command {
    let mut shell = Command::new("bash");
    shell.args(["-euc", line]).current_dir(folder);
    for (name, value) in launcher.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    let launcher = program("neva-run");
    let programs = launcher.parent().unwrap_or(folder).display();
    let path = std::env::var_os("PATH").unwrap_or_default();
    shell.env("PATH", format!("{programs}:{}", path.display()));
    shell
}

/// Runs the commands of the `console` blocks below the line `note` in `text`.
///
/// # Panics
/// A command fails or lacks a line of its output, or there are not more than `min` commands.
pub fn run_commands(text: &str, note: &str, min: usize, execute: impl Fn(&str) -> Ended) {
    let steps = steps(text, note);
    assert!(steps.len() > min, "{} commands", steps.len());
    for step in &steps {
        let ended = match &step.until {
            Some(until) => wait_for(&step.command, || {
                let ended = execute(&step.command);
                ended.stdout.contains(until.as_str()).then_some(ended)
            }),
            None => execute(&step.command).with_code(0),
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

fn steps(text: &str, note: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let (mut is_noted, mut is_open) = (false, false);
    for line in text.lines() {
        match line {
            "```console" => is_open = is_noted,
            "```" => (is_noted, is_open) = (false, false),
            line if line == note => is_noted = true,
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
