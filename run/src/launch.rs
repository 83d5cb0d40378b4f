//! Starts a run in this process or through an executor, and waits for its end.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use neva_executors::{Executor, LocalExecutor};
use neva_schemas::{Engine, Finetune, LaunchPlan, Problem, RankEnv, Run, RunReport, Severity};

use crate::{
    adapters, environment,
    error::RunError,
    folder, home,
    job::{self, JobOptions, Retry},
    plan,
    preflight::{self, Preflight},
    pretrained, program,
};

/// Options of a launch: the place of the ranks, their environment, output and retries.
pub struct RunOptions {
    place: Place,
    working_directory: Option<PathBuf>,
    env: BTreeMap<String, String>,
    preflight: bool,
    job: JobOptions,
}

enum Place {
    Direct(Arc<dyn Engine>),
    Local,
    Executor(Arc<dyn Executor>),
}

impl RunOptions {
    /// Trains in this process with the caller's engine: the only rank of a run, or one of the ranks that torchrun or srun
    /// started.
    pub fn direct(engine: impl Engine + 'static) -> Self {
        Self::at(Place::Direct(Arc::new(engine)))
    }

    /// Starts `neva-rank` processes on this machine. The first SIGINT, SIGTERM, SIGHUP or SIGUSR1 stops the ranks, which
    /// save a checkpoint; the second one kills them.
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
            preflight: true,
            job: JobOptions::default(),
        }
    }

    /// Resolves relative paths of the run against `folder` (absolute) instead of the working directory.
    #[must_use]
    pub fn working_directory(mut self, folder: impl Into<PathBuf>) -> Self {
        self.working_directory = Some(folder.into());
        self
    }

    /// Sets these environment variables for the ranks, in addition to the inherited ones. They are written to the plan,
    /// so do not pass secrets here.
    #[must_use]
    pub fn env(mut self, variables: BTreeMap<String, String>) -> Self {
        self.env = variables;
        self
    }

    /// Sets whether the files that the run names are checked before it starts, if its ranks start on this machine. The
    /// default is true.
    #[must_use]
    pub fn preflight(mut self, wanted: bool) -> Self {
        self.preflight = wanted;
        self
    }

    /// Passes the output of rank 0 to `sink` as it arrives. Without it, output goes to the logs only. An engine in this
    /// process writes its output itself.
    #[must_use]
    pub fn output(mut self, sink: impl FnMut(&[u8]) + Send + 'static) -> Self {
        self.job.output = Box::new(sink);
        self
    }

    /// Retries a failed job at most `retries` times: 2 allow three attempts. Each attempt uses the same run folder and
    /// resumes from its newest complete checkpoint.
    ///
    /// Wrong input and bugs ([`ExitClass`](neva_schemas::ExitClass) 2 and 4) are not retried, because they fail the same
    /// way again; neither is a cancelled run. The pause before a retry is 1 s, then 2 s, 4 s and so on up to 30 s. An
    /// engine in this process is started once.
    #[must_use]
    pub fn retries(mut self, retries: u32) -> Self {
        self.job.retries = retries;
        self
    }

    /// Calls `sink` when the job is submitted, waits, starts and is requeued, with a sentence about it. A job on this machine
    /// starts at once, without a sentence. By default they are logged.
    #[must_use]
    pub fn on_status(mut self, sink: impl FnMut(&str) + Send + 'static) -> Self {
        self.job.on_status = Box::new(sink);
        self
    }

    /// Calls `sink` before each retry. Without it, retries are logged as warnings.
    #[must_use]
    pub fn on_retry(mut self, sink: impl FnMut(&Retry) + Send + 'static) -> Self {
        self.job.on_retry = Box::new(sink);
        self
    }
}

/// Runs a graph and waits for its end. Blocks; call it outside of an asynchronous runtime.
///
/// # Errors
/// A run that is not valid, does not start or does not finish; see [`RunError::exit_code`].
pub fn run(finetune: &Finetune, options: RunOptions) -> Result<RunReport, RunError> {
    launch(&Run::from_finetune(finetune.clone()), options)
}

/// Runs a resolved recipe and waits for its end. Blocks, as [`run`] does.
///
/// # Errors
/// As [`run`].
pub fn launch(run: &Run, options: RunOptions) -> Result<RunReport, RunError> {
    reject_errors(adapters::problems(run))?;
    let is_here = match &options.place {
        Place::Direct(_) | Place::Local => true,
        Place::Executor(executor) => executor.shares_files(),
    };
    if is_here {
        pretrained::fetch(run, &options.env, &mut |text| tracing::info!("{text}"))?;
    }
    if options.preflight && is_here {
        let folder = options.working_directory.clone().map_or_else(current_directory, Ok)?;
        let problems = Preflight::new(folder).problems(run, &options.env);
        preflight::log_warnings(&problems);
        reject_errors(problems)?;
    }
    let mut plan = match &options.place {
        Place::Direct(_) | Place::Local => lower_now(run, options.working_directory)?,
        Place::Executor(executor) => lower_for(run, options.working_directory, &**executor)?,
    };
    plan.env = options.env;
    match options.place {
        Place::Direct(engine) => direct(plan, &*engine),
        Place::Local => job::run(plan, &LocalExecutor::new(program::find_here()?), options.job),
        Place::Executor(executor) => job::run(plan, &*executor, options.job),
    }
}

/// Returns an error if `problems` holds errors.
pub(crate) fn reject_errors(problems: Vec<Problem>) -> Result<(), RunError> {
    let errors: Vec<_> = problems.into_iter().filter(|problem| problem.severity == Severity::Error).collect();
    if errors.is_empty() {
        Ok(())
    } else {
        Err(RunError::Invalid(errors))
    }
}

/// Lowers `run` to a plan that starts now.
pub(crate) fn lower_now(run: &Run, working_directory: Option<PathBuf>) -> Result<LaunchPlan, RunError> {
    let folder = working_directory.map_or_else(current_directory, Ok)?;
    Ok(plan::lower(&home::with_home(run)?, &folder, environment::now()))
}

/// Lowers `run` to a plan that starts now through `executor`.
pub(crate) fn lower_for(run: &Run, working_directory: Option<PathBuf>, executor: &dyn Executor) -> Result<LaunchPlan, RunError> {
    let folder = working_directory.map_or_else(current_directory, Ok)?;
    // A relative folder of runs on another machine is relative to that machine's folder of runs.
    let folder = match executor.runs_folder() {
        Some(runs) if !executor.shares_files() => runs.to_owned(),
        _ => folder,
    };
    let run = home::for_executor(run, executor)?;
    let paths = |dir: &Path| executor.paths_folder(dir);
    Ok(plan::lower_with(&run, &folder, paths, environment::now()))
}

/// Returns the working directory.
pub(crate) fn current_directory() -> Result<PathBuf, RunError> {
    environment::working_directory().map_err(|source| RunError::System {
        action: "find the working directory",
        source,
    })
}

/// Returns the rank of this process in `plan`.
///
/// # Errors
/// The run has several ranks and the variables of torchrun or srun are absent, incomplete, or give another world size.
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
    job::completed(report)
}
