//! Exits of ranks as srun reports them in the output of the batch script, `logs/slurm.log`.
//!
//! ```text
//! neva-run: start 1 of job 12, failures 345
//! srun: error: n1: task 1: Exited with exit code 2
//! srun: launch/slurm: _step_signal: Terminating StepId=12.0
//! srun: error: n2: tasks 2-3: Terminated
//! ```

use std::{os::unix::process::ExitStatusExt as _, process::ExitStatus};

use rustix::process::Signal;

use crate::exit::RankExit;

/// First words of the line that the batch script prints at each start.
const START: &str = "neva-run: start ";

/// Output of the latest start of a batch script.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct BatchOutput {
    /// The batch script has started.
    pub(super) has_started: bool,
    /// Length of `failures.jsonl` at the start: records after it belong to this start.
    pub(super) failures_from: usize,
    /// Ranks that failed, in order.
    pub(super) exits: Vec<RankExit>,
    /// The job exceeded its memory.
    pub(super) is_out_of_memory: bool,
    /// Other errors of srun.
    pub(super) errors: Vec<String>,
    /// The last lines.
    pub(super) tail: Vec<String>,
}

impl BatchOutput {
    /// Parses the end of the file.
    pub(super) fn parse(log: &str, tail: usize) -> Self {
        let lines: Vec<&str> = log.lines().collect();
        let start = lines.iter().rposition(|line| line.starts_with(START));
        let own = &lines[start.map_or(0, |start| start + 1)..];
        let mut output = Self {
            has_started: start.is_some(),
            failures_from: start.and_then(|start| failures(lines[start])).unwrap_or(0),
            tail: own[own.len().saturating_sub(tail)..]
                .iter()
                .map(|line| (*line).to_owned())
                .collect(),
            ..Self::default()
        };
        let mut by_itself = true;
        for line in own {
            let memory = [
                "Exceeded job memory limit",
                "exceeded memory limit",
                "oom-kill",
                "oom_kill",
                "Out Of Memory",
            ];
            output.is_out_of_memory |= memory.iter().any(|words| line.contains(words)) && is_slurms(line);
            // From here on srun, or Slurm itself, ends the other tasks.
            let ends = ["Terminating StepId", "Job step aborted", "CANCELLED AT", "Force Terminated"];
            if ends.iter().any(|words| line.contains(words)) {
                by_itself = false;
            } else if let Some(error) = line.strip_prefix("srun: error: ") {
                output.add(error, by_itself);
            }
        }
        output
    }

    fn add(&mut self, error: &str, by_itself: bool) {
        let Some((tasks, end)) = task_error(error) else {
            self.errors.push(error.to_owned());
            return;
        };
        let Some(status) = status(end) else {
            self.errors.push(error.to_owned());
            return;
        };
        for rank in tasks {
            self.exits.push(RankExit {
                rank,
                status,
                // srun gives no time, only the order. Records of ranks have times, and are better.
                unix_ms: u64::MAX / 2 + self.exits.len() as u64,
                by_itself,
                stopped: false,
            });
        }
    }
}

/// Returns true for a line of Slurm's programs.
fn is_slurms(line: &str) -> bool {
    ["slurmstepd", "srun", "slurmd"].iter().any(|program| line.starts_with(program))
}

/// Returns the length of `failures.jsonl` in the line of a start.
fn failures(line: &str) -> Option<usize> {
    line.rsplit_once("failures ")?.1.trim().parse().ok()
}

/// Splits `n1: tasks 0-1,3: Killed` into the tasks and their end.
fn task_error(error: &str) -> Option<(Vec<u32>, &str)> {
    let (_, rest) = error.split_once(": ")?;
    let rest = rest.strip_prefix("tasks ").or_else(|| rest.strip_prefix("task "))?;
    let (tasks, end) = rest.split_once(": ")?;
    let mut ranks = Vec::new();
    for range in tasks.trim_matches(['[', ']']).split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        ranks.extend(first.parse::<u32>().ok()?..=last.parse().ok()?);
    }
    Some((ranks, end))
}

/// Returns the exit status of a task in srun's words, which are those of the C library.
fn status(end: &str) -> Option<ExitStatus> {
    if let Some(code) = end.strip_prefix("Exited with exit code ") {
        let code: i32 = code.trim().parse().ok()?;
        return Some(ExitStatus::from_raw(code << 8));
    }
    let names = [
        ("Killed", Signal::KILL),
        ("Out Of Memory", Signal::KILL),
        ("Terminated", Signal::TERM),
        ("Segmentation fault", Signal::SEGV),
        ("Aborted", Signal::ABORT),
        ("Bus error", Signal::BUS),
        ("Illegal instruction", Signal::ILL),
        ("Floating point exception", Signal::FPE),
        ("Interrupt", Signal::INT),
        ("Hangup", Signal::HUP),
        ("Quit", Signal::QUIT),
        ("User defined signal 1", Signal::USR1),
        ("User defined signal 2", Signal::USR2),
        ("Broken pipe", Signal::PIPE),
        ("Alarm clock", Signal::ALARM),
        ("CPU time limit exceeded", Signal::XCPU),
        ("File size limit exceeded", Signal::XFSZ),
        ("Bad system call", Signal::SYS),
        ("Trace/breakpoint trap", Signal::TRAP),
    ];
    let known = names.iter().find(|(name, _)| end.starts_with(name))?;
    Some(ExitStatus::from_raw(known.1.as_raw()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Output that was seen on Slurm 22.05.
    #[test]
    fn the_first_failure_of_the_latest_start_is_found() {
        let log = "neva-run: start 0 of job 3, failures 0\n\
            srun: error: n1: task 0: Exited with exit code 3\n\
            neva-run: start 1 of job 3, failures 99\n\
            srun: error: n2: task 2: Segmentation fault (core dumped)\n\
            srun: launch/slurm: _step_signal: Terminating StepId=3.0\n\
            srun: error: n2: task 3: Terminated\n\
            srun: error: n1: tasks 0-1: Terminated\n\
            srun: Force Terminated StepId=3.0\n";
        let output = BatchOutput::parse(log, 2);
        let exits: Vec<_> = output
            .exits
            .iter()
            .map(|exit| (exit.rank, exit.status.signal(), exit.by_itself))
            .collect();
        let expected = [
            (2, Some(11), true),
            (3, Some(15), false),
            (0, Some(15), false),
            (1, Some(15), false),
        ];
        assert_eq!(exits, expected);
        assert_eq!((output.failures_from, output.has_started, output.tail.len()), (99, true, 2));
        assert!(output.errors.is_empty());
    }

    #[test]
    fn other_errors_of_srun_are_kept() {
        let log = "srun: error: Unable to create step for job 23: More processors requested than permitted\n\
            srun: error: n1: task 0: Out Of Memory\n";
        let output = BatchOutput::parse(log, 5);
        assert!(!output.has_started);
        assert!(output.is_out_of_memory);
        assert!(BatchOutput::parse("slurmstepd-n1: error: Exceeded job memory limit\n", 5).is_out_of_memory);
        assert!(!BatchOutput::parse("my oom-kill handler\n", 5).is_out_of_memory);
        assert_eq!(
            output.errors,
            ["Unable to create step for job 23: More processors requested than permitted"]
        );
    }
}
