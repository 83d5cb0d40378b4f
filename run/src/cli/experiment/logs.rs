//! `neva-run experiment logs`: the output of tasks, from any process and at any time.

use std::{
    io::{self, Write as _},
    time::Duration,
};

use clap::Args;
use indexmap::IndexMap;
use neva_executors::JobHandle;
use tokio::time::sleep;

use super::super::{Format, OutputArgs, report::Report};
use crate::{
    error::RunError,
    experiment::{Status, Store},
    runtime,
};

/// How often new output is asked for.
const TICK: Duration = Duration::from_millis(100);

#[derive(Debug, Args)]
pub(super) struct LogsArgs {
    /// Its id, or its name for the latest
    #[arg(value_name = "EXPERIMENT")]
    experiment: String,
    /// Of this task only
    #[arg(value_name = "TASK")]
    task: Option<String>,
    /// Print what comes, until the experiment ends
    #[arg(short, long)]
    follow: bool,
    #[command(flatten)]
    pub(super) output: OutputArgs,
}

/// How far the output of a task was read.
#[derive(Default)]
struct Place {
    job: Option<JobHandle>,
    attempts: u32,
    offset: u64,
}

pub(super) fn logs(args: &LogsArgs, store: &Store, report: &mut Report) -> Result<(), RunError> {
    let folder = store.find(&args.experiment)?;
    let mut status = folder.status()?;
    if let Some(task) = &args.task {
        status.record.known(task)?;
    }
    let names: Vec<String> = status
        .record
        .experiment
        .tasks
        .keys()
        .filter(|name| args.task.as_ref().is_none_or(|task| task == *name))
        .cloned()
        .collect();
    let mut places: IndexMap<String, Place> = names.into_iter().map(|name| (name, Place::default())).collect();
    let several = places.len() > 1;
    let mut texts = IndexMap::<String, String>::new();
    let json = args.output.output == Format::Json && !args.follow;
    let mut last = String::new();
    runtime()?.block_on(async {
        loop {
            for (name, place) in &mut places {
                place
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
            sleep(TICK).await;
            // Asked before the output is read, so that the last of it is not missed.
            status.refresh(&folder)?;
        }
    })?;
    if json {
        report.result("", &texts);
    }
    Ok(())
}

impl Place {
    /// Hands on what came since the last time. A reader that went away has seen enough.
    async fn read(&mut self, status: &Status, name: &str, mut sink: impl FnMut(&[u8]) -> io::Result<()>) -> Result<(), RunError> {
        let Some(task) = status.report.tasks.iter().find(|task| task.name == name) else {
            return Ok(());
        };
        let Some(job) = &task.job else { return Ok(()) };
        // A further attempt begins a log of its own.
        if self.job.as_ref() != Some(job) || self.attempts != task.attempts {
            *self = Self {
                job: Some(job.clone()),
                attempts: task.attempts,
                offset: 0,
            };
        }
        let executor = status.executor(name);
        loop {
            let chunk = executor.logs(job, 0, self.offset).await?;
            if chunk.bytes.is_empty() {
                return Ok(());
            }
            self.offset = chunk.next;
            if sink(&chunk.bytes).is_err() {
                return Ok(());
            }
        }
    }
}
