//! What a run can fail with, and the exit code that stands for it.

use std::{fmt, io, path::PathBuf};

use miette::Diagnostic;
use neva_executors::{ExecutorError, JobFailure};
use neva_schemas::{ExitClass, Problem, RankFailure, Starter, env, exit_class};
use neva_track::TrackError;

use crate::{
    config::{ConfigError, Problems},
    experiment::ExperimentError,
    program,
};

/// Why a run did not start, or did not reach its end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// What the user wrote is not a run.
    #[error(transparent)]
    Config(#[from] Problems),
    /// Files that were to be checked are not what they should be.
    #[error(transparent)]
    Files(Problems),
    /// A run that was put together in Rust is not valid.
    #[error("the run is not valid: {}", sentences(.0))]
    Invalid(Vec<Problem>),
    /// torchrun's variables are incomplete or not numbers.
    #[error("{0}")]
    RankEnv(String),
    /// The run asks for several ranks, and nobody started them.
    #[error("the run asks for {world_size} ranks, but `--direct` runs in this process alone")]
    SeveralRanks {
        /// Ranks of the run.
        world_size: u32,
    },
    /// Another number of ranks was started than the run asks for.
    #[error("{starter} started {started} ranks, but the run asks for {world_size}")]
    WorldSize {
        /// What started them.
        starter: Starter,
        /// Ranks that were started.
        started: u32,
        /// Ranks of the run.
        world_size: u32,
    },
    /// This process was started as a rank, but the run would start ranks of its own.
    #[error("{starter} started this process as rank {rank} of {world_size}, and each of them would start all ranks")]
    StartedAsRank {
        /// What started it.
        starter: Starter,
        /// Number of this rank.
        rank: u32,
        /// Number of ranks.
        world_size: u32,
    },
    /// A verb's argument is not acceptable.
    #[error("{0}")]
    Argument(String),
    /// A file would be overwritten.
    #[error("{} exists already", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// Two runs differ, and whoever compared them asked for an exit code.
    #[error("{count} {}", if *count == 1 { "value differs" } else { "values differ" })]
    Differ {
        /// Values that differ.
        count: usize,
    },
    /// This machine lacks something that a run needs.
    #[error("{missing} of these checks failed")]
    Unfit {
        /// Failed checks.
        missing: usize,
    },
    /// The rank program is not there.
    #[error("{}", match .named {
        Some(path) => format!("NEVA_RANK names {}, which is not a file", path.display()),
        None => format!("the program `{}` is neither beside `neva-run` nor in PATH", program::name()),
    })]
    NoRankProgram {
        /// The file that `NEVA_RANK` names.
        named: Option<PathBuf>,
    },
    /// The rank program does not start or does not answer.
    #[error("{} does not work: {reason}", program.display())]
    RankProgram {
        /// The program.
        program: PathBuf,
        /// What happened.
        reason: String,
    },
    /// The rank program does not find libtorch.
    #[error("libtorch was not found by {}", program.display())]
    NoLibtorch {
        /// The program.
        program: PathBuf,
    },
    /// A run's records cannot be read, or its picture not be written.
    #[error(transparent)]
    Track(#[from] TrackError),
    /// A file or folder cannot be read or written.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried: `read`, `write`, `create`, `remove`.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The system refused something that every run needs.
    #[error("cannot {action}")]
    System {
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The executor did not start the job, or lost it.
    #[error(transparent)]
    Executor(#[from] ExecutorError),
    /// An experiment was not started, did not end well, or cannot be asked after.
    #[error(transparent)]
    Experiment(#[from] ExperimentError),
    /// A rank failed, in a process of its own.
    #[error(transparent)]
    Job(Box<JobFailure>),
    /// The engine failed, in this process.
    #[error("rank {} failed{}: {}", .0.rank, step(.0), .0)]
    Rank(Box<RankFailure>),
    /// Somebody asked for the run's end.
    #[error("the run was cancelled; its folder is {}{}", run_dir.display(), newest(checkpoint.as_ref()))]
    Cancelled {
        /// The run's folder.
        run_dir: PathBuf,
        /// Its newest checkpoint.
        checkpoint: Option<PathBuf>,
    },
    /// The ranks were told to stop, by somebody else than the launcher, and did.
    #[error("stopped by {signal} after {steps} steps{}", newest(checkpoint.as_ref()))]
    Stopped {
        /// The signal's name.
        signal: String,
        /// Optimizer steps that are done.
        steps: u64,
        /// The last checkpoint.
        checkpoint: Option<PathBuf>,
        /// The run's folder.
        run_dir: PathBuf,
    },
    /// All ranks succeeded, and rank 0 left no report.
    #[error("the ranks ended well, but left no report in {}", path.display())]
    NoReport {
        /// The report's file.
        path: PathBuf,
        /// Why it cannot be read.
        source: io::Error,
    },
}

impl RunError {
    /// The exit code that stands for this error.
    pub fn class(&self) -> ExitClass {
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
            | Self::Argument(_) => exit_class::INPUT,
            Self::NoRankProgram { .. }
            | Self::RankProgram { .. }
            | Self::NoLibtorch { .. }
            | Self::Unfit { .. }
            | Self::File { .. }
            | Self::Track(_)
            | Self::System { .. } => exit_class::CLUSTER,
            Self::Executor(error) => error.class(),
            Self::Experiment(error) => error.class(),
            Self::Job(failure) => failure.class,
            Self::Rank(failure) => failure.class,
            Self::Cancelled { .. } | Self::Stopped { .. } | Self::Differ { .. } => exit_class::JOB,
            Self::NoReport { .. } => exit_class::BUG,
        }
    }

    /// The same as the failure of a job.
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
        let class = self.class();
        JobFailure {
            // A task that somebody stopped did not do its work.
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

    /// What to type or do instead, where that can be said. Problems of a configuration say it each for
    /// itself.
    pub fn advice(&self) -> Option<String> {
        Some(match self {
            Self::RankEnv(_) => "start the ranks with `torchrun --no-python` or `srun`, or unset these variables".to_owned(),
            Self::SeveralRanks { world_size } => format!(
                "leave `--direct` out to start {world_size} processes here, add `--set num_gpus_per_node=1`, or start the ranks with `torchrun --no-python --nproc-per-node {world_size} neva-run RECIPE --direct` or `srun --ntasks={world_size} neva-run RECIPE --direct`"
            ),
            Self::WorldSize { starter, world_size, .. } => {
                let option = match starter {
                    Starter::Torchrun => "--nproc-per-node",
                    Starter::Srun => "--ntasks",
                };
                format!("give {starter} `{option}` so that there are {world_size}, or change `num_gpus_per_node` and `num_nodes`")
            }
            Self::StartedAsRank { .. } => "add `--direct`".to_owned(),
            Self::Exists { .. } => "add `--yes` to overwrite it, or name another".to_owned(),
            Self::NoRankProgram { named: None } => "build it with `cargo build --release`, or name it in NEVA_RANK".to_owned(),
            Self::NoLibtorch { .. } => "run `make setup`".to_owned(),
            Self::Track(TrackError::NoMetrics { .. }) => {
                "name a run's folder, or its `metrics.jsonl`; a run writes it when its first step is done".to_owned()
            }
            Self::Track(TrackError::BrokenMetrics { line, .. }) => format!("remove line {line}, or draw another run"),
            // A picture is the one record that this program writes.
            Self::Track(TrackError::Io { source, .. }) if source.kind() == io::ErrorKind::StorageFull => {
                "make room, or name a file on another disk with `--out`".to_owned()
            }
            Self::Track(TrackError::Io {
                action: "write", source, ..
            }) if source.kind() == io::ErrorKind::PermissionDenied => "name a file that you may write with `--out`".to_owned(),
            Self::File { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                "make room, or name another folder with `--set dir=...`".to_owned()
            }
            Self::File { source, .. } if matches!(source.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem) => {
                "name a folder that you may write to with `--set dir=...`".to_owned()
            }
            Self::Cancelled { checkpoint: Some(_), .. } | Self::Stopped { checkpoint: Some(_), .. } => {
                "to go on from it, start the run again with `--set finetune.resume.resume_if_exists=true`".to_owned()
            }
            Self::NoReport { path, .. } => format!(
                "this is a bug, of ours or of the rank program that {} names; please report it, with the logs of the ranks in {}",
                env::NEVA_RANK,
                path.with_file_name("logs").display()
            ),
            Self::Executor(error) => return error.help(),
            Self::Experiment(error) => return error.help(),
            Self::Job(failure) if failure.class == exit_class::BUG && failure.help.is_none() => {
                "please report it, with these lines and the rank's log".to_owned()
            }
            Self::Job(failure) => return failure.help.clone(),
            _ => return None,
        })
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
