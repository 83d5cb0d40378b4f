//! Failure of a job: the root cause rank and its error.

use std::{fmt, os::unix::process::ExitStatusExt as _, path::PathBuf};

use neva_schemas::{ExitClass, RankFailure, exit_class};
use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use crate::{
    exit::{RankExit, signal_name},
    loader::LoaderProblem,
};

/// Number of log lines that are reported if a rank left no failure record.
pub(crate) const TAIL_LINES: usize = 10;

/// The first failure of a job, and the number of other failed ranks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, thiserror::Error)]
pub struct JobFailure {
    /// Exit code of the launcher.
    pub class: ExitClass,
    /// The rank that failed first, if it was a rank.
    pub rank: Option<u32>,
    /// Optimizer step during which it failed, from 0.
    pub step: Option<u64>,
    /// Error messages, outermost first.
    pub chain: Vec<String>,
    /// Suggested fix, if there is one.
    pub help: Option<String>,
    /// Number of other ranks that failed on their own.
    pub others: usize,
    /// Log of that rank.
    pub log: Option<PathBuf>,
    /// Last lines of the log, if the rank left no record.
    pub tail: Vec<String>,
}

/// Returns the rest of the last line that starts with `prefix`.
fn last_line_after(tail: &[String], prefix: &str) -> Option<String> {
    tail.iter().rev().find_map(|line| line.strip_prefix(prefix)).map(str::to_owned)
}

/// Returns the ranks in ascending order.
fn ranks(exits: Vec<&RankExit>) -> Vec<u32> {
    let mut ranks: Vec<_> = exits.iter().map(|exit| exit.rank).collect();
    ranks.sort_unstable();
    ranks
}

/// Names all ranks but the first.
fn other_ranks(ranks: &[u32]) -> Option<String> {
    let names: Vec<_> = ranks.get(1..)?.iter().map(ToString::to_string).collect();
    match names.as_slice() {
        [] => None,
        [one] => Some(format!("so did rank {one}")),
        more => Some(format!("so did ranks {}", more.join(", "))),
    }
}

impl JobFailure {
    /// Creates a failure of the job as a whole.
    pub(crate) fn for_job(class: ExitClass, message: String) -> Self {
        Self {
            class,
            rank: None,
            step: None,
            chain: vec![message],
            help: None,
            others: 0,
            log: None,
            tail: Vec::new(),
        }
    }

    /// Returns the first failure among `exits`, described by the ranks' own `records` if they left any, or `None` if all
    /// succeeded. `tail` returns the last lines of a rank's log.
    ///
    /// The first by time is the root cause, with two exceptions. A rank that was ended by a signal from outside (the kernel's
    /// out-of-memory killer, a fault) is the root cause, and its peers' failures follow from it. A peer failure yields to any
    /// other failure, including that of a rank that had to be killed.
    pub fn first(exits: &[RankExit], records: &[RankFailure], tail: impl Fn(u32) -> Vec<String>) -> Option<Self> {
        let recorded = |rank: u32| records.iter().any(|record| record.rank == rank);
        let silent = || {
            exits
                .iter()
                .filter(|exit| exit.by_itself && !exit.status.success() && !recorded(exit.rank))
        };
        let ended_from_outside = |exit: &&RankExit| {
            let fatal = [Signal::KILL, Signal::SEGV, Signal::BUS, Signal::ILL].map(|signal| Some(signal.as_raw()));
            fatal.contains(&exit.status.signal())
        };
        let reported: std::collections::BTreeSet<u32> = records.iter().map(|record| record.rank).collect();
        let failed = reported.len() + silent().count();

        let cause = records
            .iter()
            .filter(|record| !record.peer_failure)
            .min_by_key(|record| record.unix_ms);
        let exit = silent().filter(ended_from_outside).min_by_key(|exit| exit.unix_ms).or_else(|| {
            silent()
                .min_by_key(|exit| exit.unix_ms)
                .filter(|exit| cause.is_none_or(|record| exit.unix_ms < record.unix_ms))
        });
        if let Some(exit) = exit {
            return Some(Self {
                others: failed - 1,
                ..Self::from_exit(exit, tail(exit.rank))
            });
        }
        if let Some(record) = cause {
            return Some(Self::from_record(record, failed - 1));
        }
        let first = records.iter().min_by_key(|record| record.unix_ms)?;
        Some(
            Self::from_unresponsive(exits.iter().filter(|exit| !recorded(exit.rank)), first, failed)
                .unwrap_or_else(|| Self::from_record(first, failed - 1)),
        )
    }

    fn from_record(record: &RankFailure, others: usize) -> Self {
        Self {
            rank: Some(record.rank),
            step: record.step,
            chain: record.chain.clone(),
            help: record.help.clone(),
            others,
            ..Self::for_job(record.class, String::new())
        }
    }

    /// Blames ranks that left no record and had to be killed; stopped ones first. `seen` is the first failure record of
    /// their peers.
    fn from_unresponsive<'a>(exits: impl Iterator<Item = &'a RankExit>, seen: &RankFailure, others: usize) -> Option<Self> {
        let killed = |exit: &&RankExit| !exit.by_itself && exit.status.signal() == Some(Signal::KILL.as_raw());
        let (stopped, stuck): (Vec<_>, Vec<_>) = exits.filter(killed).partition(|exit| exit.stopped);
        let (silent, why) = match stopped.as_slice() {
            [] => (stuck, "stuck, or slower than `finetune.trainer.timeout_s`"),
            _ => (stopped, "it was stopped by a signal"),
        };
        let silent = ranks(silent);
        let first = *silent.first()?;
        let mut chain = vec![format!("it did not respond and had to be killed: {why}")];
        chain.extend(other_ranks(&silent));
        let step = seen.step.map_or_else(String::new, |step| format!(" in step {step}"));
        chain.push(format!("rank {}{step}: {}", seen.rank, seen.chain.join(": ")));
        Some(Self {
            rank: Some(first),
            chain,
            others,
            ..Self::for_job(exit_class::JOB, String::new())
        })
    }

    /// Blames ranks that had to be ended `timeout_s` seconds after another rank had succeeded.
    pub(crate) fn from_late_exits(exits: &[RankExit], timeout_s: u64) -> Option<Self> {
        let late = ranks(exits.iter().filter(|exit| !exit.by_itself && !exit.status.success()).collect());
        let rank = *late.first()?;
        let mut chain = vec![format!(
            "it had not ended {timeout_s} s after another rank succeeded: stopped, or stuck"
        )];
        chain.extend(other_ranks(&late));
        Some(Self {
            rank: Some(rank),
            chain,
            ..Self::for_job(exit_class::JOB, String::new())
        })
    }

    /// Returns the failure of a script, or `None` if it succeeded. Its exit codes are its own, so any means a failed job;
    /// only a missing program is a failure of the machine.
    pub fn from_script(exits: &[RankExit], tail: impl Fn(u32) -> Vec<String>) -> Option<Self> {
        let exit = exits.iter().find(|exit| !exit.status.success())?;
        let (class, message) = match (exit.status.code(), exit.status.signal()) {
            (Some(code @ (126 | 127)), _) => (
                exit_class::CLUSTER,
                format!("it ended with exit code {code}: a program was not found"),
            ),
            (Some(code), _) => (exit_class::JOB, format!("it ended with exit code {code}")),
            (None, Some(signal)) => (exit_class::JOB, format!("it was killed by {}", signal_name(signal))),
            (None, None) => (exit_class::JOB, format!("it ended: {}", exit.status)),
        };
        Some(Self {
            help: exit.status.signal().and_then(limit_help).map(str::to_owned),
            tail: tail(exit.rank),
            ..Self::for_job(class, message)
        })
    }

    /// Returns the failure of a rank that left no record.
    fn from_exit(exit: &RankExit, tail: Vec<String>) -> Self {
        let code = exit.status.code();
        let loader = LoaderProblem::find(code, tail.iter().map(String::as_str));
        let class = match code {
            _ if loader.is_some() => exit_class::CLUSTER,
            // A shell's exit code for a program that it may not execute.
            Some(126) => exit_class::CLUSTER,
            // A Rust program's exit code for a panic.
            Some(101) => exit_class::BUG,
            Some(code) => ExitClass::try_from(code)
                .ok()
                .filter(|class| (exit_class::JOB..=exit_class::BUG).contains(class))
                .unwrap_or(exit_class::JOB),
            None => exit_class::JOB,
        };
        let (what, help) = match (loader, code, exit.status.signal()) {
            (Some(problem), ..) => (problem.message(), Some(problem.help().to_owned())),
            // It could write its error to its log, but not to `failures.jsonl`.
            (None, Some(_), _) if last_line_after(&tail, "error: ").is_some() => (
                last_line_after(&tail, "error: ").unwrap_or_default(),
                last_line_after(&tail, "help: "),
            ),
            (None, Some(code), _) => (format!("it ended with exit code {code} and left no record"), None),
            (None, None, Some(_)) if ran_out_of_memory(&tail) => (
                "it exceeded the memory limit of a process".to_owned(),
                Some("raise the limit with `ulimit -v unlimited`, request more memory, or try a smaller `micro_batch_size`".to_owned()),
            ),
            (None, None, Some(signal)) => (
                format!("it was killed by {}", signal_name(signal)),
                signal_help(signal).map(str::to_owned),
            ),
            (None, None, None) => (format!("it ended: {}", exit.status), None),
        };
        Self {
            class,
            rank: Some(exit.rank),
            step: None,
            chain: vec![what],
            help,
            others: 0,
            log: None,
            tail,
        }
    }
}

/// Returns true if a rank's last lines contain an out-of-memory error of C++ or Rust.
fn ran_out_of_memory(tail: &[String]) -> bool {
    let words = ["std::bad_alloc", "memory allocation of"];
    tail.iter().any(|line| words.iter().any(|words| line.contains(words)))
}

/// Returns a suggestion for a signal that ended a rank from outside.
fn signal_help(signal: i32) -> Option<&'static str> {
    if signal == Signal::KILL.as_raw() {
        return Some("a user killed it, or the system did because memory ran out: then try a smaller `micro_batch_size`");
    }
    limit_help(signal)
}

/// Returns a suggestion for a signal of an exceeded system limit.
fn limit_help(signal: i32) -> Option<&'static str> {
    if signal == Signal::XFSZ.as_raw() {
        Some("a file exceeded the size limit: raise it with `ulimit -f unlimited`")
    } else if signal == Signal::XCPU.as_raw() {
        Some("it exceeded the CPU time limit: raise it with `ulimit -t unlimited`")
    } else {
        None
    }
}

impl fmt::Display for JobFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.rank, self.step) {
            (Some(rank), Some(step)) => write!(f, "rank {rank} failed in step {step}: ")?,
            (Some(rank), None) => write!(f, "rank {rank} failed: ")?,
            (None, _) => {}
        }
        f.write_str(&self.chain.join(": "))?;
        match self.others {
            0 => Ok(()),
            1 => f.write_str(" (1 more rank failed)"),
            more => write!(f, " ({more} more ranks failed)"),
        }
    }
}
