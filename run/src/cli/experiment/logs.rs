//! `neva-run experiment logs`: prints the output of tasks.

use std::{
    io::{self, Write as _},
    time::Duration,
};

use clap::Args;
use indexmap::IndexMap;
use neva_executors::JobHandle;
use tokio::time::sleep;

use super::super::{
    Format, OutputArgs,
    report::{Report, written},
};
use crate::{
    error::RunError,
    experiment::{Status, Store},
    runtime,
};

/// Interval at which new output is polled on this machine.
const TICK: Duration = Duration::from_millis(100);

/// Interval for other machines.
const REMOTE_TICK: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(super) struct LogsArgs {
    /// Id of the experiment, or its name for the latest one
    #[arg(value_name = "EXPERIMENT")]
    experiment: String,
    /// Print the output of this task only
    #[arg(value_name = "TASK")]
    task: Option<String>,
    /// Keep printing until the experiment ends
    #[arg(short, long)]
    follow: bool,
    #[command(flatten)]
    pub(super) output: OutputArgs,
}

/// Read position in the output of a task.
#[derive(Default)]
struct Cursor {
    job: Option<JobHandle>,
    attempts: u32,
    offset: u64,
}

pub(super) fn logs(args: &LogsArgs, store: &Store, report: &mut Report) -> Result<(), RunError> {
    let folder = store.find(&args.experiment)?;
    let mut status = folder.status()?;
    if let Some(task) = &args.task {
        status.record.require_task(task)?;
    }
    let names: Vec<String> = status
        .record
        .experiment
        .tasks
        .keys()
        .filter(|name| args.task.as_ref().is_none_or(|task| task == *name))
        .cloned()
        .collect();
    let mut cursors: IndexMap<String, Cursor> = names.into_iter().map(|name| (name, Cursor::default())).collect();
    let several = cursors.len() > 1;
    let mut texts = IndexMap::<String, String>::new();
    let json = args.output.output == Format::Json && !args.follow;
    let mut last = String::new();
    let mut tick = TICK;
    for name in cursors.keys() {
        if !status.executor(name)?.shares_files() {
            tick = REMOTE_TICK;
        }
    }
    let read = runtime()?.block_on(async {
        loop {
            for (name, cursor) in &mut cursors {
                cursor
                    .read(&status, name, |bytes| {
                        if json {
                            texts.entry(name.clone()).or_default().push_str(&String::from_utf8_lossy(bytes));
                            return Ok(());
                        }
                        let mut out = io::stdout().lock();
                        if several && last != *name {
                            let gap = if last.is_empty() { "" } else { "\n" };
                            writeln!(out, "{gap}==> {name} <==")?;
                            last.clone_from(name);
                        }
                        out.write_all(bytes)?;
                        out.flush()
                    })
                    .await?;
            }
            if !args.follow || !status.alive {
                return Ok::<_, RunError>(());
            }
            sleep(tick).await;
            // Before the output is read, so that its end is not missed.
            status.refresh(&folder)?;
        }
    });
    match read {
        Err(RunError::Output { source }) => return written(source),
        read => read?,
    }
    if json {
        report.result("", &texts);
    }
    Ok(())
}

impl Cursor {
    /// Passes new output to `sink`.
    async fn read(&mut self, status: &Status, name: &str, mut sink: impl FnMut(&[u8]) -> io::Result<()>) -> Result<(), RunError> {
        let Some(task) = status.report.tasks.iter().find(|task| task.name == name) else {
            return Ok(());
        };
        let Some(job) = &task.job else { return Ok(()) };
        // Every attempt has its own log.
        if self.job.as_ref() != Some(job) || self.attempts != task.attempts {
            *self = Self {
                job: Some(job.clone()),
                attempts: task.attempts,
                offset: 0,
            };
        }
        let executor = status.executor(name)?;
        let mut longest = 0;
        loop {
            let chunk = executor.logs(job, 0, self.offset).await?;
            if chunk.bytes.is_empty() {
                return Ok(());
            }
            self.offset = chunk.next;
            sink(&chunk.bytes).map_err(|source| RunError::Output { source })?;
            // A shorter one reaches the end. A job that writes all the time must not keep this from ending.
            if chunk.bytes.len() < longest {
                return Ok(());
            }
            longest = chunk.bytes.len();
        }
    }
}
