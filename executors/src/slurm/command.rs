//! Slurm's programs, run through the tunnel, and what their errors mean.

use std::{io, time::Duration};

use crate::{
    batch_error::BatchError,
    error::ExecutorError,
    tunnel::{CommandEnd, CommandOutput, Tunnel, TunnelCommand},
};

/// Time that a query has: a controller that is down makes Slurm's programs wait for up to 20 s.
const QUERY_TIMEOUT: Duration = Duration::from_secs(90);

/// Texts of Slurm when its controller, or the database, cannot be reached for a while.
const UNREACHABLE: &[&str] = &[
    "unable to contact slurm controller",
    "socket timed out",
    "zero bytes were transmitted or received",
    "connection refused",
    "connection reset",
    "connection timed out",
    "transport endpoint is not connected",
    "unable to establish control machine address",
    "slurm backup controller in standby mode",
    "temporarily unable to accept job",
    "resource temporarily unavailable",
    "slurmctld not responding",
    "munge encode failed: failed to connect",
    "munged.socket",
    "message receive failure",
    "communication connection failure",
    "problem talking to the database",
];

/// Returns a command of one of Slurm's programs, whose output does not depend on the user's settings.
pub(super) fn tool(argv: impl IntoIterator<Item = impl Into<String>>) -> TunnelCommand {
    let mut command = TunnelCommand::new(argv);
    command.deadline = QUERY_TIMEOUT;
    command.env.insert("LC_ALL".to_owned(), "C".to_owned());
    // Seconds since the epoch.
    command.env.insert("SLURM_TIME_FORMAT".to_owned(), "%s".to_owned());
    command
}

/// Returns a command that runs the shell text `script` with arguments.
pub(super) fn script(text: &str, arguments: impl IntoIterator<Item = String>) -> TunnelCommand {
    let head = ["sh", "-c", text, "neva-run"].map(str::to_owned);
    tool(head.into_iter().chain(arguments))
}

/// Runs a command and returns its output if it succeeded.
pub(super) async fn run(tunnel: &dyn Tunnel, command: &TunnelCommand) -> Result<String, ExecutorError> {
    let output = tunnel.run(command).await?;
    if output.is_success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let program = command.argv.first().map_or("", String::as_str);
    Err(failure(&tunnel.place(), program, &output))
}

/// Returns the error of a failed program of Slurm.
pub(super) fn failure(place: &str, program: &str, output: &CommandOutput) -> ExecutorError {
    let words = words(&output.stderr);
    if is_unreachable(&words) {
        return ExecutorError::Connection {
            place: format!("the Slurm controller of {place}"),
            source: io::Error::other(words),
        };
    }
    let (place, program) = (place.to_owned(), program.to_owned());
    match &output.end {
        CommandEnd::Exit(126 | 127) => BatchError::NoProgram { place, program, words },
        CommandEnd::Exit(code) => BatchError::Failed {
            place,
            program,
            end: format!("exit code {code}"),
            words,
        },
        CommandEnd::Signal(signal) => BatchError::Failed {
            place,
            program,
            end: format!("SIG{signal}"),
            words,
        },
    }
    .into()
}

/// Returns true if Slurm's words say that the controller cannot be reached.
pub(super) fn is_unreachable(words: &str) -> bool {
    let words = words.to_ascii_lowercase();
    UNREACHABLE.iter().any(|text| words.contains(text))
}

/// Returns the last lines of a program's error output as one line, without the prefixes that all of Slurm's programs print.
pub(super) fn words(stderr: &[u8]) -> String {
    const SHOWN: usize = 3;
    let text = String::from_utf8_lossy(stderr);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let lines = &lines[lines.len().saturating_sub(SHOWN)..];
    let plain = |line: &&str| {
        let rest = line
            .split_once(": ")
            .filter(|(program, _)| program.starts_with('s') && !program.contains(' '));
        let rest = rest.map_or(*line, |(_, rest)| rest);
        rest.strip_prefix("error: ").unwrap_or(rest).to_owned()
    };
    lines.iter().map(plain).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_slurm_are_told_apart() {
        let error = |code: i32, stderr: &str| {
            failure(
                "login",
                "squeue",
                &CommandOutput {
                    end: CommandEnd::Exit(code),
                    stdout: Vec::new(),
                    stderr: stderr.as_bytes().to_vec(),
                },
            )
        };
        let down = error(
            1,
            "squeue: error: slurm_receive_msg: ...\nslurm_load_jobs error: Unable to contact slurm controller (connect failure)\n",
        );
        assert!(down.is_connection_lost(), "{down:?}");
        for text in [
            "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation",
            "sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying.",
            "sacct: error: Problem talking to the database: Connection refused",
        ] {
            assert!(error(1, text).is_connection_lost(), "{text}");
        }
        let missing = error(127, "sh: 1: squeue: not found\n");
        assert_eq!((missing.exit_code(), missing.is_connection_lost()), (3, false));
        assert!(missing.help().is_some());
        assert_eq!(
            words(b"sbatch: error: invalid partition specified: x\nsbatch: error: Batch job submission failed: y\n"),
            "invalid partition specified: x; Batch job submission failed: y"
        );
    }
}
