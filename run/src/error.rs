//! Errors of a run, and their exit codes.

mod advice;

use std::{fmt, io, path::PathBuf};

use miette::Diagnostic;
use neva_data::{CheckError, DataError, InspectError, PrepareError};
use neva_executors::{ExecutorError, JobFailure, LoaderProblem};
use neva_schemas::{ExitClass, Problem, RankFailure, Starter, exit_class};
use neva_track::TrackError;

use crate::{
    config::{ConfigError, Problems},
    experiment_error::ExperimentError,
    hub::HubError,
    import::ImportError,
    rank_program,
};

/// Error of a run that did not start or did not finish.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The configuration is not a valid run.
    #[error(transparent)]
    Config(#[from] Problems),
    /// Files named by the run are missing or do not fit it.
    #[error(transparent)]
    Files(Problems),
    /// A run that was built in Rust is not valid.
    #[error("the run is not valid: {}", sentences(.0))]
    Invalid(Vec<Problem>),
    /// torchrun's variables are incomplete or not numbers.
    #[error("{0}")]
    RankEnv(String),
    /// The run asks for several ranks, but nothing started them.
    #[error("the run asks for {world_size} ranks, but `--direct` runs in this process alone")]
    SeveralRanks {
        /// Ranks of the run.
        world_size: u32,
    },
    /// The number of started ranks differs from the run's world size.
    #[error("{starter} started {started} ranks, but the run asks for {world_size}")]
    WorldSize {
        /// The program that started them.
        starter: Starter,
        /// Number of started ranks.
        started: u32,
        /// Ranks of the run.
        world_size: u32,
    },
    /// This process was started as a rank, but the run would start ranks of its own.
    #[error("{starter} started this process as rank {rank} of {world_size}, and each of them would start all ranks")]
    StartedAsRank {
        /// The program that started it.
        starter: Starter,
        /// Number of this rank.
        rank: u32,
        /// Number of ranks.
        world_size: u32,
    },
    /// An argument of a subcommand is not acceptable.
    #[error("{0}")]
    Argument(String),
    /// A file would be overwritten.
    #[error("{} exists already", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// Two runs differ, and the caller asked for an exit code.
    #[error("{count} {}", if *count == 1 { "value differs" } else { "values differ" })]
    Differ {
        /// Number of values that differ.
        count: usize,
    },
    /// This machine lacks something that a run needs.
    #[error("{missing} of these checks failed")]
    ChecksFailed {
        /// Number of failed checks.
        missing: usize,
    },
    /// The rank program was not found.
    #[error("{}", match .named {
        Some(path) => format!("NEVA_RANK names {}, which is not a file", path.display()),
        None => format!("the program `{}` is neither beside `neva-run` nor in PATH", rank_program::name()),
    })]
    NoRankProgram {
        /// The file that `NEVA_RANK` names.
        named: Option<PathBuf>,
    },
    /// The rank program does not start or does not respond.
    #[error("{} does not work: {reason}", program.display())]
    RankProgram {
        /// The program.
        program: PathBuf,
        /// The reason.
        reason: String,
    },
    /// The rank program cannot load libtorch.
    #[error("{}", match problem {
        LoaderProblem::Missing => format!("libtorch was not found by {}", program.display()),
        problem => format!("{} cannot start: {}", program.display(), problem.message()),
    })]
    NoLibtorch {
        /// The program.
        program: PathBuf,
        /// The loader's problem.
        problem: LoaderProblem,
    },
    /// A run's records cannot be read, or its plot cannot be written.
    #[error(transparent)]
    Track(#[from] TrackError),
    /// A file or folder cannot be read or written.
    #[error("cannot {action} {}", path.display())]
    File {
        /// The failed action: `read`, `write`, `create`, `remove`.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A file or folder that the command line names cannot be written.
    #[error("cannot {action} {}", path.display())]
    Target {
        /// The failed action: `write`, `create`.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// Standard output cannot be written.
    #[error("cannot write to standard output")]
    Output {
        /// The system's error.
        source: io::Error,
    },
    /// A system call that every run needs failed.
    #[error("cannot {action}")]
    System {
        /// The failed action.
        action: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// The executor did not start the job, or lost it.
    #[error(transparent)]
    Executor(#[from] ExecutorError),
    /// A model cannot be downloaded.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// A run's data has errors.
    #[error("the data has {errors} {}", if *errors == 1 { "error" } else { "errors" })]
    BrokenData {
        /// Number of errors.
        errors: u64,
        /// Number of records with an error, which a skip list can leave out.
        records: u64,
        /// The skip list that was written.
        skip_list: Option<PathBuf>,
    },
    /// A check of data did not finish.
    #[error(transparent)]
    DataCheck(#[from] CheckError),
    /// Samples cannot be read, or a packed set cannot be written.
    #[error(transparent)]
    Samples(#[from] DataError),
    /// A packing was stopped.
    #[error("stopped after {samples} samples: no packed set was written")]
    PackStopped {
        /// Number of samples that were measured.
        samples: usize,
    },
    /// A dataset was not prepared.
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    /// Samples cannot be shown.
    #[error(transparent)]
    Inspect(#[from] InspectError),
    /// A model was not imported.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// An experiment did not start, did not succeed, or cannot be queried.
    #[error(transparent)]
    Experiment(#[from] ExperimentError),
    /// A rank failed in its own process.
    #[error(transparent)]
    Job(Box<JobFailure>),
    /// The engine failed in this process.
    #[error("rank {} failed{}: {}", .0.rank, step(.0), .0)]
    Rank(Box<RankFailure>),
    /// The run was cancelled.
    #[error("the run was cancelled; its folder is {}{}", run_dir.display(), newest(checkpoint.as_ref()))]
    Cancelled {
        /// The run's folder.
        run_dir: PathBuf,
        /// Its newest checkpoint.
        checkpoint: Option<PathBuf>,
    },
    /// The run was stopped before it was submitted.
    #[error("the run was cancelled before it was submitted")]
    NotSubmitted,
    /// The ranks stopped at a signal that the launcher did not send.
    #[error("stopped by {signal} after {steps} steps{}", newest(checkpoint.as_ref()))]
    Stopped {
        /// The signal's name.
        signal: String,
        /// Completed optimizer steps.
        steps: u64,
        /// The last checkpoint.
        checkpoint: Option<PathBuf>,
        /// The run's folder.
        run_dir: PathBuf,
    },
    /// All ranks succeeded, but rank 0 wrote no report.
    #[error("the ranks succeeded, but wrote no report to {}", path.display())]
    NoReport {
        /// The report's file.
        path: PathBuf,
        /// The error of reading it.
        source: io::Error,
    },
}

impl RunError {
    /// Returns the exit code of this error.
    pub fn exit_code(&self) -> ExitClass {
        match self {
            Self::Config(_)
            | Self::Files(_)
            | Self::Invalid(_)
            | Self::RankEnv(_)
            | Self::SeveralRanks { .. }
            | Self::WorldSize { .. }
            | Self::StartedAsRank { .. }
            | Self::Track(TrackError::NoMetrics { .. } | TrackError::BrokenMetrics { .. })
            | Self::Exists { .. }
            | Self::BrokenData { .. }
            | Self::Inspect(_)
            | Self::Argument(_) => exit_class::INPUT,
            Self::DataCheck(CheckError::Stopped { .. }) => exit_class::JOB,
            Self::DataCheck(CheckError::Panicked) => exit_class::BUG,
            Self::DataCheck(CheckError::Data(error)) if !matches!(error, DataError::Write { .. }) => exit_class::INPUT,
            Self::DataCheck(_) => exit_class::CLUSTER,
            Self::Samples(DataError::Write { .. }) => exit_class::CLUSTER,
            Self::Samples(_) => exit_class::INPUT,
            Self::Prepare(PrepareError::Stopped { .. }) | Self::PackStopped { .. } => exit_class::JOB,
            Self::Prepare(PrepareError::Catalog { .. } | PrepareError::Data(DataError::Write { .. })) => exit_class::CLUSTER,
            Self::Prepare(_) => exit_class::INPUT,
            Self::NoRankProgram { .. }
            | Self::RankProgram { .. }
            | Self::NoLibtorch { .. }
            | Self::ChecksFailed { .. }
            | Self::File { .. }
            | Self::Target { .. }
            | Self::Track(_)
            | Self::Output { .. }
            | Self::System { .. } => exit_class::CLUSTER,
            Self::Hub(error) => error.exit_code(),
            Self::Import(error) => error.exit_code(),
            Self::Executor(error) => error.exit_code(),
            Self::Experiment(error) => error.exit_code(),
            Self::Job(failure) => failure.class,
            Self::Rank(failure) => failure.class,
            Self::Cancelled { .. } | Self::NotSubmitted | Self::Stopped { .. } | Self::Differ { .. } => exit_class::JOB,
            Self::NoReport { .. } => exit_class::BUG,
        }
    }

    /// Converts this error into the failure of a job.
    pub(crate) fn into_failure(self) -> JobFailure {
        if let Self::Job(failure) = self {
            return *failure;
        }
        let mut chain = vec![self.to_string()];
        let mut source = std::error::Error::source(&self);
        while let Some(cause) = source {
            chain.push(cause.to_string());
            source = cause.source();
        }
        let class = self.exit_code();
        JobFailure {
            // A task that was stopped did not succeed.
            class: if class == exit_class::DONE { exit_class::JOB } else { class },
            rank: None,
            step: None,
            chain,
            help: self.advice(),
            others: 0,
            log: None,
            tail: Vec::new(),
        }
    }
}

impl From<ConfigError> for RunError {
    fn from(error: ConfigError) -> Self {
        Self::Config(error.into())
    }
}

impl Diagnostic for RunError {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.advice().map(|advice| Box::new(advice) as Box<_>)
    }
}

fn sentences(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

fn newest(checkpoint: Option<&PathBuf>) -> String {
    checkpoint.map_or_else(
        || "; there is no checkpoint".to_owned(),
        |checkpoint| format!("; the checkpoint is {}", checkpoint.display()),
    )
}

fn step(failure: &RankFailure) -> String {
    failure.step.map_or_else(String::new, |step| format!(" in step {step}"))
}
