//! The process group of a job: its processes are signalled together, and a terminal's Ctrl-C reaches only the launcher.

use std::{
    fs::OpenOptions,
    io::{self, PipeReader, PipeWriter},
    path::Path,
    process::Stdio,
};

use neva_schemas::{env, spin_count};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{Child, Command};

use super::NOT_INHERITED;
use crate::{
    error::ExecutorError,
    submission::{JobKind, Process, Submission},
};

/// The started ranks, in order.
#[derive(Debug)]
pub(super) struct Group {
    id: Pid,
    pub(super) ranks: Vec<Child>,
    /// Write end of the ranks' standard input, through which nothing is sent. It is closed when the launcher dies, and the
    /// ranks then exit.
    _lifeline: PipeWriter,
}

impl Group {
    /// Starts every process of the submission. If one does not start, all are killed.
    pub(super) async fn start(submission: &Submission, port: u16) -> Result<Self, ExecutorError> {
        let (lifeline_reader, lifeline) = io::pipe().map_err(|source| ExecutorError::Pipe { source })?;
        let mut lifeline = Some(lifeline);
        let mut group: Option<Self> = None;
        for process in submission.processes() {
            // No rank is reaped before all are started, so the first keeps the group id valid even when it is
            // already dead.
            let leader = group.as_ref().map(|group| group.id);
            let contract = (submission.kind == JobKind::Ranks).then_some((port, &lifeline_reader));
            match (start(process, &submission.dir, contract, leader), &mut group) {
                (Ok((id, child)), None) => {
                    group = lifeline.take().map(|_lifeline| Self {
                        id,
                        ranks: vec![child],
                        _lifeline,
                    });
                }
                (Ok((_, child)), Some(group)) => group.ranks.push(child),
                (Err(error), None) => return Err(error),
                (Err(error), Some(group)) => {
                    group.signal(Signal::KILL);
                    for rank in &mut group.ranks {
                        // An error means that there is nothing left to wait for.
                        let _ = rank.wait().await;
                    }
                    return Err(error);
                }
            }
        }
        group.ok_or(ExecutorError::NoMesh { ranks: 0 })
    }

    /// Signals every process of the group, including children of the ranks.
    pub(super) fn signal(&self, signal: Signal) {
        // The only possible error is that no process is left.
        let _ = kill_process_group(self.id, signal);
    }
}

/// Starts a process. A rank also gets the rendezvous port and the pipe that is closed with the launcher.
fn start(process: &Process, dir: &Path, contract: Option<(u16, &PipeReader)>, group: Option<Pid>) -> Result<(Pid, Child), ExecutorError> {
    let path = dir.join(&process.log);
    let log = OpenOptions::new().create(true).append(true).open(&path);
    let logs = log.and_then(|log| Ok((log.try_clone()?, log)));
    let (stdout, stderr) = logs.map_err(|source| ExecutorError::File {
        action: "write",
        path,
        source,
    })?;

    let (program, arguments) = process
        .argv
        .split_first()
        .map_or(("", [].as_slice()), |(program, rest)| (program.as_str(), rest));
    let mut command = Command::new(program);
    command
        .args(arguments)
        .envs(&process.env)
        .env(env::NEVA_JOB, dir)
        .stdin(Stdio::null())
        .stdout(stdout)
        .stderr(stderr)
        .process_group(group.map_or(0, |group| group.as_raw_nonzero().get()))
        // No rank outlives the runtime.
        .kill_on_drop(true);
    for name in NOT_INHERITED {
        command.env_remove(name);
    }
    if let Some((port, lifeline_reader)) = contract {
        let lifeline = lifeline_reader.try_clone().map_err(|source| ExecutorError::Pipe { source })?;
        command
            .stdin(lifeline)
            .env(env::MASTER_PORT, port.to_string())
            .env(env::NEVA_DIE_WITH_PARENT, "1");
        let is_set = |name: &str| process.env.contains_key(name) || std::env::var_os(name).is_some();
        command.envs(spin_count(is_set));
    }
    if let Some(folder) = &process.working_directory {
        command.current_dir(folder);
    }
    let failed = |source: io::Error| {
        if source.kind() == io::ErrorKind::ArgumentListTooLong {
            return too_long(process);
        }
        let program = program.to_owned();
        match process.working_directory.clone() {
            Some(folder) => ExecutorError::StartScript { program, folder, source },
            None => ExecutorError::Start { program, source },
        }
    };
    let child = command.spawn().map_err(failed)?;
    let id = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
    let id = id.ok_or_else(|| failed(io::Error::other("the system returned no process id")))?;
    Ok((id, child))
}

/// Returns the error for arguments or an environment of `process` that are longer than the system allows.
fn too_long(process: &Process) -> ExecutorError {
    let inherited = std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.len())));
    let own = process.env.iter().map(|(name, value)| (name.clone(), value.len()));
    let (variable, bytes) = inherited.chain(own).max_by_key(|(_, bytes)| *bytes).unwrap_or_default();
    let arguments = process.argv.iter().map(String::len).sum();
    ExecutorError::TooLong {
        variable,
        bytes,
        arguments,
    }
}
