//! Starts a run, in this process or through an executor, and waits for its end.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use neva_executors::{Executor, LocalExecutor};
use neva_schemas::{Engine, Finetune, LaunchPlan, RankEnv, Run, RunReport, Severity};

use crate::{
    adapters, environment,
    error::RunError,
    folder,
    job::{self, Retry, Watcher},
    plan, program,
};

/// Where and how a run is started.
pub struct RunOptions {
    place: Place,
    working_directory: Option<PathBuf>,
    env: BTreeMap<String, String>,
    watcher: Watcher,
}

enum Place {
    Direct(Arc<dyn Engine>),
    Local,
    Executor(Arc<dyn Executor>),
}

impl RunOptions {
    /// Trains in this process, through the caller's engine: a run of one rank, or one rank of those that
    /// torchrun or srun started.
    pub fn direct(engine: impl Engine + 'static) -> Self {
        Self::at(Place::Direct(Arc::new(engine)))
    }

    /// Starts `neva-rank` processes on this machine. While it runs, SIGINT, SIGTERM, SIGHUP and SIGUSR1 end
    /// the ranks first, which save a checkpoint; the second one kills them.
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
            env: BTreeMap::new(),
            watcher: Watcher::default(),
        }
    }

    /// Takes relative paths of the run from `folder` (absolute) and not from the working directory.
    #[must_use]
    pub fn working_directory(mut self, folder: impl Into<PathBuf>) -> Self {
        self.working_directory = Some(folder.into());
        self
    }

    /// Gives the ranks these variables, by name, beside what they inherit. They are written down in the plan, so
    /// secrets do not belong here.
    #[must_use]
    pub fn env(mut self, variables: BTreeMap<String, String>) -> Self {
        self.env = variables;
        self
    }

    /// Hands the output of rank 0 to `sink` as it comes. Without it, output is in the logs only; an engine
    /// in this process writes where it likes.
    #[must_use]
    pub fn output(mut self, sink: impl FnMut(&[u8]) + Send + 'static) -> Self {
        self.watcher.output = Box::new(sink);
        self
    }

    /// Submits the job again when it failed, at most `retries` times: 2 make three attempts. Each takes place
    /// in the run's own folder, whose newest whole checkpoint it goes on from.
    ///
    /// Wrong input and bugs ([`ExitClass`](neva_schemas::ExitClass) 2 and 4) fail the same way again and are
    /// not tried again; neither is a run that somebody ended. Before each further attempt lies a pause of 1 s,
    /// then 2 s, 4 s and so on up to 30 s. An engine in this process is started once.
    #[must_use]
    pub fn retries(mut self, retries: u32) -> Self {
        self.watcher.retries = retries;
        self
    }

    /// Tells `sink` of each attempt that failed and is followed by another. Without it, they are warnings in
    /// the log.
    #[must_use]
    pub fn on_retry(mut self, sink: impl FnMut(&Retry) + Send + 'static) -> Self {
        self.watcher.on_retry = Box::new(sink);
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
    let errors: Vec<_> = adapters::problems(run)
        .into_iter()
        .filter(|problem| problem.severity == Severity::Error)
        .collect();
    if !errors.is_empty() {
        return Err(RunError::Invalid(errors));
    }
    let mut plan = lower_here(run, options.working_directory)?;
    plan.env = options.env;
    match options.place {
        Place::Direct(engine) => direct(plan, &*engine),
        Place::Local => job::run(plan, &LocalExecutor::new(program::find_here()?), options.watcher),
        Place::Executor(executor) => job::run(plan, &*executor, options.watcher),
    }
}

/// The plan of `run`, started now.
pub(crate) fn lower_here(run: &Run, working_directory: Option<PathBuf>) -> Result<LaunchPlan, RunError> {
    let folder = working_directory.map_or_else(here, Ok)?;
    Ok(plan::lower(run, &folder, environment::now()))
}

/// The working directory.
pub(crate) fn here() -> Result<PathBuf, RunError> {
    environment::working_directory().map_err(|source| RunError::System {
        action: "find the working directory",
        source,
    })
}

/// The place of this process among the ranks of `plan`.
///
/// # Errors
/// The run has several ranks and the variables of torchrun or srun are absent, incomplete, or tell of another number.
pub(crate) fn own_rank(plan: &LaunchPlan) -> Result<RankEnv, RunError> {
    let world_size = plan.world_size();
    match RankEnv::read(environment::variable).map_err(RunError::RankEnv)? {
        Some(rank) if rank.world_size == world_size => Ok(rank),
        Some(rank) => Err(RunError::WorldSize {
            starter: rank.starter,
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
    let report = engine.train(&plan, &rank).map_err(|failure| RunError::Rank(Box::new(failure)))?;
    job::finished(report)
}
