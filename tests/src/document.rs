//! Commands in documents, which tests run.
//!
//! The lines below a command must occur in its output in order, where `...` matches anything. A command with `# until TEXT` is
//! repeated until its output contains the text.

use crate::Ended;

/// A command of a document and the lines below it.
pub struct Step {
    /// The command line.
    pub command: String,
    /// Text for which it is repeated.
    pub until: Option<String>,
    /// Expected lines.
    pub output: Vec<String>,
}

/// Returns the commands in the blocks of `text` below the comment `note`.
///
/// # Panics
/// If a block begins with output.
pub fn steps(text: &str, note: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let (mut is_noted, mut is_open) = (false, false);
    for line in text.lines() {
        match line {
            line if line == note => is_noted = true,
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

impl Step {
    /// Checks that the expected lines are in the output of the command.
    ///
    /// # Panics
    /// If one is not.
    #[track_caller]
    pub fn check(&self, ended: &Ended) {
        let all = format!("{}\n{}", ended.stderr, ended.stdout);
        let mut lines = all.lines();
        for expected in &self.output {
            assert!(
                lines.any(|line| matches(expected, line)),
                "{}: no {expected:?} in\n{all}",
                self.command
            );
        }
    }
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
