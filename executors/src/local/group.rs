//! The processes of a job, as one process group: they are signalled together, and a terminal's Ctrl-C
//! reaches the launcher only.

use std::{fs::OpenOptions, io, path::Path, process::Stdio};

use neva_schemas::env;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{Child, Command};

use super::FOREIGN;
use crate::{
    error::ExecutorError,
    submission::{JobKind, Process, Submission},
};

/// Ranks that were started, in their order.
#[derive(Debug)]
pub(super) struct Group {
    id: Pid,
    pub(super) ranks: Vec<Child>,
}

impl Group {
    /// Starts every process of the submission. Where one does not start, none is left running.
    pub(super) async fn start(submission: &Submission, port: u16) -> Result<Self, ExecutorError> {
        let mut group: Option<Self> = None;
        for process in &submission.processes {
            // No rank is waited for before all are started, so the first keeps the group's number alive
            // even when it is already dead.
            let leader = group.as_ref().map(|group| group.id);
            let port = (submission.kind == JobKind::Ranks).then_some(port);
            match (start(process, &submission.dir, port, leader), &mut group) {
                (Ok((id, child)), None) => group = Some(Self { id, ranks: vec![child] }),
                (Ok((_, child)), Some(group)) => group.ranks.push(child),
                (Err(error), None) => return Err(error),
                (Err(error), Some(group)) => {
                    group.signal(Signal::KILL);
                    for rank in &mut group.ranks {
                        // An error says that there is nothing left to wait for.
                        let _ = rank.wait().await;
                    }
                    return Err(error);
                }
            }
        }
        group.ok_or(ExecutorError::NoMesh { ranks: 0 })
    }

    /// Signals every process of the group, children of the ranks too.
    pub(super) fn signal(&self, signal: Signal) {
        // The only error there can be is that no process is left.
        let _ = kill_process_group(self.id, signal);
    }
}

fn start(process: &Process, dir: &Path, port: Option<u16>, group: Option<Pid>) -> Result<(Pid, Child), ExecutorError> {
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
        // Should the runtime end before the job does, no rank is left behind.
        .kill_on_drop(true);
    for name in FOREIGN {
        command.env_remove(name);
    }
    if let Some(port) = port {
        command.env(env::MASTER_PORT, port.to_string()).env(env::NEVA_DIE_WITH_PARENT, "1");
    }
    if let Some(folder) = &process.working_directory {
        command.current_dir(folder);
    }
    let failed = |source| {
        let program = program.to_owned();
        match process.working_directory.clone() {
            Some(folder) => ExecutorError::StartScript { program, folder, source },
            None => ExecutorError::Start { program, source },
        }
    };
    let child = command.spawn().map_err(failed)?;
    let id = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
    let id = id.ok_or_else(|| failed(io::Error::other("the system gave it no process number")))?;
    Ok((id, child))
}
