//! A way to a Slurm that answers at once, and counts commands.

use std::{
    fmt::Write as _,
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use neva_executors::{
    BoxFuture, ExecutorError,
    tunnel::{CommandEnd, CommandOutput, Tunnel, TunnelCommand, TunnelFile},
};

/// Commands that were run.
#[derive(Debug, Default)]
pub(crate) struct Count {
    pub(crate) squeue: AtomicUsize,
    pub(crate) sacct: AtomicUsize,
    pub(crate) reads: AtomicUsize,
}

impl Count {
    pub(crate) fn get(&self) -> [usize; 3] {
        [&self.squeue, &self.sacct, &self.reads].map(|count| count.load(Ordering::Relaxed))
    }
}

/// A cluster whose jobs run, or have succeeded and been forgotten by the controller. The folder of a job has its number.
#[derive(Debug)]
pub(crate) struct FakeSlurm {
    /// Returns whether the controller has forgotten a job, by its number and the number of earlier queries.
    pub(crate) forgets: fn(&str, usize) -> bool,
    /// Returns whether the accounting database knows a job.
    pub(crate) records: fn(&str) -> bool,
    /// Returns whether the batch script of a job left its exit code.
    pub(crate) has_status: fn(&str) -> bool,
    /// Time that a command takes.
    pub(crate) delay: Duration,
    /// What each rank writes between two reads.
    pub(crate) line: &'static str,
    pub(crate) count: Count,
    /// Errors of the accounting database: each ends one query.
    pub(crate) failures: Mutex<Vec<&'static str>>,
}

impl FakeSlurm {
    fn answer(&self, command: &TunnelCommand) -> CommandOutput {
        let mut stdout = String::new();
        let program = command.argv.first().map_or("", String::as_str);
        let jobs = command.argv.last().map_or("", String::as_str).split(',');
        let count = |of: &AtomicUsize| of.fetch_add(1, Ordering::Relaxed);
        match program {
            "squeue" => {
                let earlier = count(&self.count.squeue);
                for job in jobs.filter(|job| !(self.forgets)(job, earlier)) {
                    let _ = writeln!(stdout, "{job}|RUNNING|0|0|1796044543|n[1-8]|None|");
                }
            }
            "sacct" => {
                count(&self.count.sacct);
                if let Some(words) = self.failures.lock().unwrap().pop() {
                    return output(1, "", words);
                }
                for job in jobs.filter(|job| (self.records)(job)) {
                    let _ = writeln!(stdout, "{job}|COMPLETED|0:0|1796044543|n[1-8]");
                }
            }
            _ => {
                count(&self.count.reads);
                for (index, request) in String::from_utf8_lossy(&command.stdin).lines().enumerate() {
                    let path = request.splitn(3, ' ').nth(2).unwrap_or_default();
                    let id = path.rsplit('/').nth(1).unwrap_or_default();
                    let text = match path {
                        path if path.ends_with("/slurm.job") => format!("{id} ranks key\n"),
                        path if path.ends_with("/slurm.status") && (self.has_status)(id) => {
                            format!("{} 0 0\n", id.split('_').next().unwrap_or_default())
                        }
                        path if path.contains("rank") => self.line.to_owned(),
                        _ => continue,
                    };
                    let _ = write!(stdout, "{} {} -\n{text}\n", index + 1, text.len());
                }
            }
        }
        output(0, &stdout, "")
    }
}

fn output(code: i32, stdout: &str, stderr: &str) -> CommandOutput {
    CommandOutput {
        end: CommandEnd::Exit(code),
        stdout: stdout.into(),
        stderr: stderr.into(),
    }
}

impl Tunnel for FakeSlurm {
    fn place(&self) -> String {
        "login".into()
    }

    fn run<'a>(&'a self, command: &'a TunnelCommand) -> BoxFuture<'a, Result<CommandOutput, ExecutorError>> {
        Box::pin(async move {
            let output = self.answer(command);
            tokio::time::sleep(self.delay).await;
            Ok(output)
        })
    }

    fn write<'a>(&'a self, _: &'a [TunnelFile]) -> BoxFuture<'a, Result<(), ExecutorError>> {
        Box::pin(async { Ok(()) })
    }

    fn upload<'a>(&'a self, _: &'a Path, _: &'a Path) -> BoxFuture<'a, Result<(), ExecutorError>> {
        Box::pin(async { Ok(()) })
    }

    fn read<'a>(&'a self, _: &'a Path, _: u64, _: u64) -> BoxFuture<'a, Result<Option<Vec<u8>>, ExecutorError>> {
        Box::pin(async { Ok(None) })
    }
}
