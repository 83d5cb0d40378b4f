//! Stops and continues the jobs of this process: Ctrl-Z reaches only the launcher, since jobs have their own process
//! groups.

use std::{collections::BTreeSet, fs};

use neva_schemas::env;
use rustix::process::{Pid, Signal, kill_process_group};

/// Stops every process of the running jobs of this process, as Ctrl-Z does.
pub fn pause_jobs() {
    signal_jobs(Signal::TSTP);
}

/// Continues the jobs stopped by [`pause_jobs`].
pub fn continue_jobs() {
    signal_jobs(Signal::CONT);
}

fn signal_jobs(signal: Signal) {
    for group in groups() {
        // The only possible error is that it has already ended.
        let _ = kill_process_group(group, signal);
    }
}

/// Returns the process groups of the jobs whose processes are children of this process.
fn groups() -> impl Iterator<Item = Pid> {
    let own = std::process::id().cast_signed();
    let entries = fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok);
    let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let group = |id: i32| {
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
        let (parent, group) = parent_and_group(&stat)?;
        (parent == own && group != own && belongs_to_job(id)).then_some(group)
    };
    let groups: BTreeSet<i32> = ids.filter_map(group).collect();
    groups.into_iter().filter_map(Pid::from_raw)
}

/// Parses parent and process group from `/proc/<id>/stat`. The name before them may contain anything, even brackets.
fn parent_and_group(stat: &str) -> Option<(i32, i32)> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(1).map(str::parse);
    Some((fields.next()?.ok()?, fields.next()?.ok()?))
}

/// Returns true if a process has a job's variable in its environment.
fn belongs_to_job(id: i32) -> bool {
    let mark = [env::NEVA_JOB, "="].concat();
    let environment = fs::read(format!("/proc/{id}/environ")).unwrap_or_default();
    environment
        .split(|byte| *byte == 0)
        .any(|variable| variable.starts_with(mark.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_may_contain_brackets_and_spaces() {
        assert_eq!(parent_and_group("7 (a) b) c) S 12 34 5 0"), Some((12, 34)));
        assert_eq!(parent_and_group("7 (a"), None);
    }
}
