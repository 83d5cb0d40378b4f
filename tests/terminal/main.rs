//! Runs a program as the session leader of a terminal, its standard input: `on-terminal PROGRAM ARGUMENTS`.
//! Signals have their defaults, even if this program inherited them as ignored.
#![forbid(unsafe_code)]

use std::io::{Error, Write as _, stderr, stdin};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};
use std::sync::Arc;

use rustix::process::{ioctl_tiocsctty, setsid};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP, SIGUSR1};

fn main() -> ExitCode {
    let error = start().err();
    let _ = writeln!(stderr(), "on-terminal: {error:?}");
    ExitCode::FAILURE
}

/// Replaces this process with the program; returns only on failure.
fn start() -> Result<(), Error> {
    for signal in [SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP, SIGUSR1] {
        // A signal with a handler gets its default action in a new program.
        let _ = signal_hook::flag::register(signal, Arc::default())?;
    }
    let _session = setsid()?;
    ioctl_tiocsctty(stdin())?;
    let mut words = std::env::args_os().skip(1);
    let program = words.next().ok_or_else(|| Error::other("no program"))?;
    Err(Command::new(program).args(words).exec())
}
