//! Renders the script that runs in the container: pure text, the same for the same input.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    path::{Path, PathBuf},
};

use neva_schemas::{DockerExecutorConfig, StopSignal, env, spin_count};

use crate::{
    background::stop_signal,
    submission::{JobKind, Process, quoted},
};

/// File of the script in the job's folder.
pub(super) const SCRIPT_FILE: &str = "container.sh";
/// Output of the script.
pub(super) const SCRIPT_LOG: &str = "logs/container.log";

const FUNCTIONS: &str = include_str!("supervise.sh");

/// Variables of a rank that the script or the container's request sets.
const PER_RANK: &[&str] = &[env::RANK, env::LOCAL_RANK];

/// What the script starts.
pub(super) struct Work<'a> {
    pub(super) dir: &'a Path,
    pub(super) processes: &'a [Process],
    pub(super) kind: JobKind,
    /// Seconds that the other processes have after one succeeded.
    pub(super) exit_timeout_s: Option<u64>,
}

/// Returns the script's text.
pub(super) fn render(config: &DockerExecutorConfig, work: &Work<'_>) -> String {
    let mut text = String::from("#!/bin/sh\n");
    text += FUNCTIONS;
    let _ = writeln!(text, "\ncd {} || exit 3", quoted(&work.dir.to_string_lossy()));
    let _ = writeln!(text, "exec </dev/null >>{SCRIPT_LOG} 2>&1");
    let exit_timeout_s = work.exit_timeout_s.unwrap_or(0);
    let _ = writeln!(
        text,
        "settle={} grace={} exit_timeout={exit_timeout_s}",
        config.settle_s, config.grace_s
    );
    for signal in StopSignal::ALL {
        let sent = match work.kind {
            JobKind::Ranks => stop_signal(signal),
            JobKind::Script => StopSignal::Terminate,
        };
        let [name, sent] = [signal, sent].map(|signal| signal.name().trim_start_matches("SIG"));
        let _ = writeln!(text, "trap 'on_signal {name} {sent}' {name}");
    }
    if !config.env_from.is_empty() {
        text += "read_variables\n";
    }
    for (name, value) in variables(config, work) {
        let _ = writeln!(text, "export {name}={}", quoted_value(&value));
    }
    for (rank, process) in work.processes.iter().enumerate() {
        let folder = process.working_directory.as_deref().unwrap_or(work.dir);
        let mut line = format!(
            "start {rank} {} {}",
            quoted(&process.log.to_string_lossy()),
            quoted(&folder.to_string_lossy())
        );
        for name in PER_RANK {
            if let Some(value) = process.env.get(*name) {
                let _ = write!(line, " {name}={}", quoted(value));
            }
        }
        line += " --";
        for word in &process.argv {
            let _ = write!(line, " {}", quoted(word));
        }
        text += &line;
        text += "\n";
    }
    text += "supervise\n";
    text
}

/// Returns the variables of all processes. The container's request sets the port, and renumbers chosen GPUs.
fn variables(config: &DockerExecutorConfig, work: &Work<'_>) -> BTreeMap<String, String> {
    let first = work.processes.first().map(|process| process.env.clone()).unwrap_or_default();
    let elsewhere = [env::MASTER_PORT, env::CUDA_VISIBLE_DEVICES];
    let mut variables: BTreeMap<_, _> = first
        .into_iter()
        .filter(|(name, _)| !PER_RANK.contains(&name.as_str()) && !elsewhere.contains(&name.as_str()))
        .collect();
    if let Some(folders) = config.library_path() {
        let path = variables.entry(env::LD_LIBRARY_PATH.to_owned()).or_default();
        *path = if path.is_empty() { folders } else { format!("{folders}:{path}") };
    }
    if work.kind == JobKind::Ranks {
        let own = spin_count(|name| variables.contains_key(name));
        variables.extend(own.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }
    variables
}

/// Quotes a value for `export NAME=VALUE`, where a shell would replace `~`.
fn quoted_value(value: &str) -> String {
    let word = quoted(value);
    if word == value { format!("'{value}'") } else { word }
}

/// Returns the rank program in the container.
pub(super) fn program(config: &DockerExecutorConfig, default: &Path) -> PathBuf {
    config.rank_program.as_ref().map_or_else(|| default.to_owned(), PathBuf::from)
}
