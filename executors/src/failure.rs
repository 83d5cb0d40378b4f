//! How a job failed: which rank was first, and what it said.

use std::{fmt, os::unix::process::ExitStatusExt as _, path::PathBuf};

use neva_schemas::{ExitClass, RankFailure, exit_class};
use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use crate::exit::{RankExit, signal_name};

/// Lines of a rank's log that stand in for a failure record.
pub(crate) const TAIL_LINES: usize = 10;

/// The first failure of a job, and how many ranks followed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, thiserror::Error)]
pub struct JobFailure {
    /// Exit code of the launcher.
    pub class: ExitClass,
    /// The rank that failed first, where it was a rank.
    pub rank: Option<u32>,
    /// Optimizer step that it was in, from 0.
    pub step: Option<u64>,
    /// What happened, outermost first.
    pub chain: Vec<String>,
    /// What to do, where that can be said.
    pub help: Option<String>,
    /// Number of other ranks that failed by themselves.
    pub others: usize,
    /// That rank's log.
    pub log: Option<PathBuf>,
    /// The last lines of the log, where the rank left no record of its own.
    pub tail: Vec<String>,
}

/// Their numbers, ascending.
fn ranks(exits: Vec<&RankExit>) -> Vec<u32> {
    let mut ranks: Vec<_> = exits.iter().map(|exit| exit.rank).collect();
    ranks.sort_unstable();
    ranks
}

/// Those behind the first of several ranks, in words.
fn also(ranks: &[u32]) -> Option<String> {
    let names: Vec<_> = ranks.get(1..)?.iter().map(ToString::to_string).collect();
    match names.as_slice() {
        [] => None,
        [one] => Some(format!("so did rank {one}")),
        more => Some(format!("so did ranks {}", more.join(", "))),
    }
}

impl JobFailure {
    /// A failure of the job as a whole.
    pub(crate) fn of_job(class: ExitClass, message: String) -> Self {
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

    /// The first failure among `exits`, told by the ranks' own `records` where they left some, or `None`
    /// where all succeeded. `tail` gives the last lines of a rank's log.
    ///
    /// First is first by time, with these exceptions: a rank that a signal ended from outside (the kernel's
    /// out-of-memory killer, a fault) is a cause, and what its peers report of it is the consequence; and what failed
    /// because of a peer gives way to whatever did not, a rank that had to be killed included.
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
        let told: std::collections::BTreeSet<u32> = records.iter().map(|record| record.rank).collect();
        let failed = told.len() + silent().count();

        let cause = records.iter().filter(|record| !record.by_peer).min_by_key(|record| record.unix_ms);
        let exit = silent().filter(ended_from_outside).min_by_key(|exit| exit.unix_ms).or_else(|| {
            silent()
                .min_by_key(|exit| exit.unix_ms)
                .filter(|exit| cause.is_none_or(|record| exit.unix_ms < record.unix_ms))
        });
        if let Some(exit) = exit {
            return Some(Self {
                others: failed - 1,
                ..Self::of_exit(exit, tail(exit.rank))
            });
        }
        if let Some(record) = cause {
            return Some(Self::of_record(record, failed - 1));
        }
        let first = records.iter().min_by_key(|record| record.unix_ms)?;
        Some(
            Self::of_silence(exits.iter().filter(|exit| !recorded(exit.rank)), first, failed)
                .unwrap_or_else(|| Self::of_record(first, failed - 1)),
        )
    }

    fn of_record(record: &RankFailure, others: usize) -> Self {
        Self {
            rank: Some(record.rank),
            step: record.step,
            chain: record.chain.clone(),
            others,
            ..Self::of_job(record.class, String::new())
        }
    }

    /// Of the ranks that told nothing those that had to be killed, if there are any; those that somebody had stopped, if there are such: `seen` is
    /// what the first of their peers says of it.
    fn of_silence<'a>(exits: impl Iterator<Item = &'a RankExit>, seen: &RankFailure, others: usize) -> Option<Self> {
        let killed = |exit: &&RankExit| !exit.by_itself && exit.status.signal() == Some(Signal::KILL.as_raw());
        let (stopped, stuck): (Vec<_>, Vec<_>) = exits.filter(killed).partition(|exit| exit.stopped);
        let (silent, why) = match stopped.as_slice() {
            [] => (stuck, "stuck, or slower than `finetune.trainer.timeout_s`"),
            _ => (stopped, "somebody had stopped it"),
        };
        let silent = ranks(silent);
        let first = *silent.first()?;
        let mut chain = vec![format!("it did not answer, and had to be killed: {why}")];
        chain.extend(also(&silent));
        let step = seen.step.map_or_else(String::new, |step| format!(" in step {step}"));
        chain.push(format!("rank {}{step}: {}", seen.rank, seen.chain.join(": ")));
        Some(Self {
            rank: Some(first),
            chain,
            others,
            ..Self::of_job(exit_class::JOB, String::new())
        })
    }

    /// Ranks that had not ended `patience` seconds after another one had succeeded, and were made to.
    pub(crate) fn of_late(exits: &[RankExit], patience: u64) -> Option<Self> {
        let late = ranks(exits.iter().filter(|exit| !exit.by_itself && !exit.status.success()).collect());
        let rank = *late.first()?;
        let mut chain = vec![format!(
            "it had not ended {patience} s after another rank was done: stopped, or stuck"
        )];
        chain.extend(also(&late));
        Some(Self {
            rank: Some(rank),
            chain,
            ..Self::of_job(exit_class::JOB, String::new())
        })
    }

    /// The failure of a script, or `None` where it succeeded. Its exit codes are its own, so each is one of the
    /// job; only a program that is not there is the machine's.
    pub fn of_script(exits: &[RankExit], tail: impl Fn(u32) -> Vec<String>) -> Option<Self> {
        let exit = exits.iter().find(|exit| !exit.status.success())?;
        let (class, message) = match (exit.status.code(), exit.status.signal()) {
            (Some(code @ (126 | 127)), _) => (
                exit_class::CLUSTER,
                format!("it ended with exit code {code}: a program is not there"),
            ),
            (Some(code), _) => (exit_class::JOB, format!("it ended with exit code {code}")),
            (None, Some(signal)) => (exit_class::JOB, format!("it was killed by {}", signal_name(signal))),
            (None, None) => (exit_class::JOB, format!("it ended: {}", exit.status)),
        };
        Some(Self {
            tail: tail(exit.rank),
            ..Self::of_job(class, message)
        })
    }

    /// The failure of a rank that left no record.
    fn of_exit(exit: &RankExit, tail: Vec<String>) -> Self {
        let code = exit.status.code();
        let no_library = code == Some(127) || tail.iter().any(|line| line.contains("error while loading shared libraries"));
        let class = match code {
            _ if no_library => exit_class::CLUSTER,
            // What a shell says of a program that it may not execute.
            Some(126) => exit_class::CLUSTER,
            // What a Rust program says of a panic.
            Some(101) => exit_class::BUG,
            Some(code) => ExitClass::try_from(code)
                .ok()
                .filter(|class| (exit_class::JOB..=exit_class::BUG).contains(class))
                .unwrap_or(exit_class::JOB),
            None => exit_class::JOB,
        };
        let (what, help) = match (code, exit.status.signal()) {
            _ if no_library => ("libtorch was not found".to_owned(), Some("run `make setup`".to_owned())),
            (Some(code), _) => (format!("it ended with exit code {code} and left no record"), None),
            (None, Some(signal)) => {
                let help = (signal == Signal::KILL.as_raw())
                    .then(|| "somebody killed it, or the system did because memory ran out: then try a smaller micro batch".to_owned());
                (format!("it was killed by {}", signal_name(signal)), help)
            }
            (None, None) => (format!("it ended: {}", exit.status), None),
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
