//! Files of a cluster, through a command that runs a shell text there.

use std::{
    io::Write as _,
    process::{Command, Stdio},
};

/// Runs a command with an input, and returns its output.
pub(crate) fn output(command: &mut Command, input: &str) -> String {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    String::from_utf8_lossy(&child.wait_with_output().unwrap().stdout).into_owned()
}
