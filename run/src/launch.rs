//! Starts a run, in this process or through an executor, and waits for its end.

use std::{fs, io, path::PathBuf, sync::Arc, time::Duration};

use neva_executors::{Executor, JobHandle, JobState, LocalExecutor};
use neva_schemas::{Engine, Finetune, LaunchPlan, REPORT_FILE, RankEnv, Run, RunReport, Severity, Validate as _};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::{MissedTickBehavior, interval},
};

use crate::{environment, error::RunError, folder, plan, program};

/// How often a job is asked for its state and output.
const TICK: Duration = Duration::from_millis(50);

/// Where and how a run is started.
pub struct RunOptions {
    place: Place,
    working_directory: Option<PathBuf>,
    output: Output,
}

/// What takes the output of rank 0.
type Output = Box<dyn FnMut(&[u8]) + Send>;

enum Place {
    Direct(Arc<dyn Engine>),
    Local,
    Executor(Arc<dyn Executor>),
}

impl RunOptions {
    /// Trains in this process, through the caller's engine: a run of one rank, or one rank of those that
    /// torchrun started.
    pub fn direct(engine: impl Engine + 'static) -> Self {
        Self::at(Place::Direct(Arc::new(engine)))
    }

    /// Starts `neva-rank` processes on this machine. While it runs, SIGINT, SIGTERM and SIGHUP end the
    /// ranks first; the second one kills them.
    pub fn local() -> Self {
        Self::at(Place::Local)
    }

    /// Starts the run through `executor`.
    pub fn executor(executor: Arc<dyn Executor>) -> Self {
        Self::at(Place::Executor(executor))
    }

    fn at(place: Place) -> Self {
        Self {
            place,
            working_directory: None,
            output: Box::new(|_| {}),
        }
    }

    /// Takes relative paths of the run from `folder` (absolute) and not from the working directory.
    #[must_use]
    pub fn working_directory(mut self, folder: impl Into<PathBuf>) -> Self {
        self.working_directory = Some(folder.into());
        self
    }

    /// Hands the output of rank 0 to `sink` as it comes. Without it, output is in the logs only; an engine
    /// in this process writes where it likes.
    #[must_use]
    pub fn output(mut self, sink: impl FnMut(&[u8]) + Send + 'static) -> Self {
        self.output = Box::new(sink);
        self
    }
}

/// Runs a graph and waits for its end. Blocks; call it outside of an asynchronous runtime.
///
/// # Errors
/// A run that is not valid, does not start or does not reach its end; [`RunError::class`] tells which.
pub fn run(finetune: &Finetune, options: RunOptions) -> Result<RunReport, RunError> {
    launch(&Run::of(finetune.clone()), options)
}

/// Runs what a recipe resolved to, and waits for its end. Blocks, as [`run`] does.
///
/// # Errors
/// As [`run`].
pub fn launch(run: &Run, options: RunOptions) -> Result<RunReport, RunError> {
    let errors: Vec<_> = run
        .problems("")
        .into_iter()
        .filter(|problem| problem.severity == Severity::Error)
        .collect();
    if !errors.is_empty() {
        return Err(RunError::Invalid(errors));
    }
    let plan = lower_here(run, options.working_directory)?;
    match options.place {
        Place::Direct(engine) => direct(plan, &*engine),
        Place::Local => through(plan, &LocalExecutor::new(program::find_here()?), options.output),
        Place::Executor(executor) => through(plan, &*executor, options.output),
    }
}

/// The plan of `run`, started now.
pub(crate) fn lower_here(run: &Run, working_directory: Option<PathBuf>) -> Result<LaunchPlan, RunError> {
    let here = || {
        environment::working_directory().map_err(|source| RunError::System {
            action: "find the working directory",
            source,
        })
    };
    Ok(plan::lower(run, &working_directory.map_or_else(here, Ok)?, environment::now()))
}

/// The place of this process among the ranks of `plan`.
///
/// # Errors
/// The run has several ranks and torchrun's variables are absent, incomplete, or tell of another number.
pub(crate) fn own_rank(plan: &LaunchPlan) -> Result<RankEnv, RunError> {
    let world_size = plan.world_size();
    match RankEnv::read(environment::variable).map_err(RunError::RankEnv)? {
        Some(rank) if rank.world_size == world_size => Ok(rank),
        Some(rank) => Err(RunError::WorldSize {
            started: rank.world_size,
            world_size,
        }),
        None if world_size == 1 => Ok(RankEnv::single()),
        None => Err(RunError::SeveralRanks { world_size }),
    }
}

fn direct(mut plan: LaunchPlan, engine: &dyn Engine) -> Result<RunReport, RunError> {
    let rank = own_rank(&plan)?;
    if rank.rank == 0 {
        folder::create_run_folder(&mut plan)?;
        folder::write_plan(&plan)?;
    }
    engine.train(&plan, &rank).map_err(|failure| RunError::Rank(Box::new(failure)))
}

fn through(mut plan: LaunchPlan, executor: &dyn Executor, mut output: Output) -> Result<RunReport, RunError> {
    // A plan that cannot run here leaves no folder behind.
    executor.render(&plan)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|source| RunError::System {
        action: "start the launcher's runtime",
        source,
    })?;
    runtime.block_on(async {
        // Before the first process starts: none is left behind by a signal that comes early.
        let mut signals = EndSignals::listen().map_err(|source| RunError::System {
            action: "listen for signals",
            source,
        })?;
        folder::create_run_folder(&mut plan)?;
        let job = executor.submit(&executor.render(&plan)?).await?;
        tracing::info!(%job, "submitted");
        match watch(executor, &job, &mut signals, &mut output).await? {
            JobState::Succeeded => report(&plan),
            JobState::Failed(failure) => Err(RunError::Job(Box::new(failure))),
            _ => Err(RunError::Cancelled {
                run_dir: plan.run_dir.clone(),
            }),
        }
    })
}

/// Follows a job to its end: passes on the output of rank 0, and a signal as a request to cancel.
async fn watch(executor: &dyn Executor, job: &JobHandle, signals: &mut EndSignals, output: &mut Output) -> Result<JobState, RunError> {
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut offset = 0;
    loop {
        tokio::select! {
            () = signals.next() => {
                tracing::warn!("ending the run; once more kills it");
                executor.cancel(job).await?;
            }
            _ = tick.tick() => {
                // Asked before the output is read, so that the last of it is not missed.
                let state = executor.state(job).await?;
                loop {
                    let chunk = executor.logs(job, 0, offset).await?;
                    if chunk.bytes.is_empty() {
                        break;
                    }
                    offset = chunk.next;
                    output(&chunk.bytes);
                }
                if !matches!(state, JobState::Pending | JobState::Running) {
                    return Ok(state);
                }
            }
        }
    }
}

/// What rank 0 left.
fn report(plan: &LaunchPlan) -> Result<RunReport, RunError> {
    let path = plan.run_dir.join(REPORT_FILE);
    let read = fs::read(&path).and_then(|text| serde_json::from_slice(&text).map_err(io::Error::from));
    read.map_err(|source| RunError::NoReport { path, source })
}

/// The signals that ask a program to end.
struct EndSignals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl EndSignals {
    fn listen() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}
