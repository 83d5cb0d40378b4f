//! A subcommand that the rank program executes in place of this process.

use std::{
    ffi::OsString,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use neva_schemas::env;

use super::{Globals, LogFormat};
use crate::{environment, error::RunError, program};

/// A command line of the rank program.
pub(super) struct RankCommand {
    program: PathBuf,
    command: Command,
}

impl RankCommand {
    /// Begins the command line of a subcommand. The global options set the level of its log.
    ///
    /// # Errors
    /// There is no rank program, or it has no log of the requested format.
    pub(super) fn new(subcommand: &str, globals: &Globals) -> Result<Self, RunError> {
        if globals.log_format == LogFormat::Json {
            let message = format!("`--log-format json`: the log of `{subcommand}` has lines only: remove the option");
            return Err(RunError::Argument(message));
        }
        let program = program::find_here()?;
        let mut command = Command::new(&program);
        command.arg(subcommand);
        let level = match (globals.quiet, globals.verbose) {
            (true, _) => Some("error"),
            (false, 0) => None,
            (false, 1) => Some("info"),
            (false, 2) => Some("debug"),
            (false, _) => Some("trace"),
        };
        if let Some(level) = level.filter(|_| environment::variable(env::NEVA_LOG).is_none()) {
            command.env(env::NEVA_LOG, level);
        }
        Ok(Self { program, command })
    }

    /// Adds a path that is no value of an option. A name may start with a dash.
    pub(super) fn positional(&mut self, path: &Path) {
        let path = if path.to_string_lossy().starts_with('-') {
            Path::new(".").join(path)
        } else {
            path.to_owned()
        };
        self.command.arg(path);
    }

    /// Adds an option. Its value is in the same word, since it may start with a dash.
    pub(super) fn option(&mut self, name: &str, value: Option<impl Into<OsString>>) {
        if let Some(value) = value {
            let mut option = OsString::from(name);
            option.push("=");
            option.push(value.into());
            self.command.arg(option);
        }
    }

    /// Adds a flag if it is set.
    pub(super) fn flag(&mut self, name: &str, is_set: bool) {
        if is_set {
            self.command.arg(name);
        }
    }

    /// Replaces this process. Returns only on failure.
    pub(super) fn run(mut self) -> Result<(), RunError> {
        let source = self.command.exec();
        Err(RunError::RankProgram {
            program: self.program,
            reason: source.to_string(),
        })
    }
}
