//! `neva-rank`: the program that executors start.

use super::device::check_libtorch;
use super::environment::lookup;
use super::export_args::{ExportArgs, MergeArgs, run_export, run_merge};
use super::failure::{record, record_panic};
use super::generate_args::GenerateArgs;
use super::log::Log;
use super::openmp::restart_with_spin_count;
use super::run::engine;
use crate::checkpoint::ModelCache;
use crate::error::{EngineError, Result};
use crate::file_limit::report_file_limit;
use crate::trainer::{Registry, StopRequest};
use clap::{Args, ColorChoice, Parser, Subcommand};
use neva_schemas::{Engine, ExitClass, LaunchPlan, RankEnv, RankFailure, env, exit_class};
use rustix::fs::FileType;
use std::io::{ErrorKind, Write as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// One rank of a run. Usually started by neva-run.
#[derive(Debug, Parser)]
#[command(name = "neva-rank", version, color = help_colour())]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Trains as the rank that torchrun's variables name; alone without them.
    Train(Train),
    /// Answers a question about images.
    Generate(GenerateArgs),
    /// Writes the model of a checkpoint in the format of another program.
    Export(ExportArgs),
    /// Merges adapters into their base, and writes a model of Hugging Face's transformers.
    Merge(MergeArgs),
    /// Prints the versions of this program and libtorch as one line of JSON.
    Version,
}

#[derive(Debug, Args)]
struct Train {
    /// The launch plan.
    #[arg(long)]
    plan: PathBuf,
    /// Deletes the plan once it is read.
    #[arg(long)]
    remove_plan: bool,
}

/// Runs the program: parses arguments, executes the subcommand, and returns the exit code. A recipe may name the types of
/// `registry`.
pub fn rank_main(registry: Registry) -> ExitCode {
    let filter = lookup(env::NEVA_LOG).unwrap_or_else(|| "info".into());
    let filter = tracing_subscriber::EnvFilter::try_new(filter).unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let log = Log::start();
    let layer = tracing_subscriber::fmt::layer()
        .with_target(false)
        .with_writer({
            let log = log.clone();
            move || log.clone()
        })
        .with_ansi(false)
        // Its error about an unwritable log would panic, on the same standard error.
        .log_internal_errors(false);
    tracing_subscriber::registry().with(filter).with(layer).init();
    let Cli { command } = Cli::parse();
    if !matches!(command, Command::Version) {
        restart_with_spin_count();
    }
    let code = match run(command, registry) {
        Ok(code) => code,
        Err(failure) => {
            // If standard error cannot be written, the failure record and the exit code remain.
            let help = failure.help.as_ref().map_or_else(String::new, |help| format!("help: {help}\n"));
            let _ = log.clone().write_all(format!("error: {failure}\n{help}").as_bytes());
            failure.class
        }
    };
    log.finish();
    ExitCode::from(code)
}

/// Returns whether clap colours its texts. By default it would also colour them on a dumb terminal if `CI` is set.
fn help_colour() -> ColorChoice {
    if lookup("TERM").is_some_and(|terminal| terminal == "dumb") {
        ColorChoice::Never
    } else {
        ColorChoice::Auto
    }
}

/// Executes a subcommand. Returns the exit code, unless it is that of a failure.
fn run(command: Command, registry: Registry) -> Result<ExitClass, RankFailure> {
    match command {
        Command::Train(args) => train(&args, registry),
        Command::Generate(args) => outcome(|| print(&args.answer(registry.models())?)),
        Command::Export(args) => outcome(|| {
            report_file_limit()?;
            print(&run_export(&args, registry.models(), &ModelCache::locate(lookup))?)
        }),
        Command::Merge(args) => outcome(|| {
            report_file_limit()?;
            print(&run_merge(&args, registry.models(), &ModelCache::locate(lookup))?)
        }),
        Command::Version => outcome(|| {
            let libtorch = neva_torch_ffi::libtorch_version()?;
            let cuda = neva_torch_ffi::load_cuda()? && tch::Cuda::is_available();
            print(&serde_json::json!({ "version": env!("CARGO_PKG_VERSION"), "libtorch": libtorch, "cuda": cuda }).to_string())?;
            check_libtorch().map(drop)
        }),
    }
}

fn train(args: &Train, registry: Registry) -> Result<ExitClass, RankFailure> {
    let (rank, report) = read_plan(&args.plan, args.remove_plan)
        .map_err(|error| record(0, None, &error))
        .and_then(|plan| {
            let rank = RankEnv::read(lookup)
                .map_err(|text| input_failure(&text))?
                .unwrap_or_else(RankEnv::single);
            tracing::debug!("rank {} of {} is process {}", rank.rank, rank.world_size, std::process::id());
            let stop = StopRequest::on_signals().map_err(|error| record(rank.rank, None, &error))?;
            stop_when_launcher_dies(&stop);
            let engine = engine().registry(registry).stop(stop);
            match engine.train(&plan, &rank) {
                Ok(report) => Ok((rank, report)),
                Err(failure) => Err(RankFailure {
                    rank: rank.rank,
                    ..failure
                }),
            }
        })?;
    // All ranks have the same report.
    if let Some(checkpoint) = report.checkpoint.as_ref().filter(|_| rank.rank == 0) {
        tracing::info!("checkpoint {}", checkpoint.display());
    }
    // A job that depends on the complete run must not start after a stopped one.
    let Some(signal) = report.stopped else {
        return Ok(exit_class::DONE);
    };
    tracing::warn!("stopped by {signal} after {} steps", report.steps);
    Ok(exit_class::JOB)
}

/// Makes this rank save and end when its launcher dies: standard input is a pipe that only the launcher holds open.
fn stop_when_launcher_dies(stop: &StopRequest) {
    let requested = lookup(env::NEVA_DIE_WITH_PARENT).is_some_and(|value| value == "1");
    // A wrapper program may have replaced standard input.
    let is_pipe = || rustix::fs::fstat(std::io::stdin()).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Fifo);
    if !requested || !is_pipe() {
        return;
    }
    let stop = stop.clone();
    let wait = move || {
        // Nothing is written to the pipe: it only closes.
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        stop.launcher_ended();
        tracing::warn!("the launcher has died: this rank saves and ends");
    };
    if let Err(error) = std::thread::Builder::new().name("launcher".into()).spawn(wait) {
        tracing::warn!("this rank does not stop if its launcher is killed: {error}");
    }
}

fn read_plan(path: &Path, remove: bool) -> Result<LaunchPlan> {
    let bytes = std::fs::read(path).map_err(EngineError::io("read", path))?;
    let plan = serde_json::from_slice(&bytes).map_err(|error| EngineError::Content {
        path: path.to_owned(),
        reason: error.to_string(),
    })?;
    if remove {
        std::fs::remove_file(path).map_err(EngineError::io("remove", path))?;
    }
    Ok(plan)
}

fn input_failure(text: &str) -> RankFailure {
    RankFailure {
        class: exit_class::INPUT,
        rank: 0,
        step: None,
        unix_ms: 0,
        chain: vec![text.into()],
        peer_failure: false,
        help: None,
    }
}

fn outcome(body: impl FnOnce() -> Result<()>) -> Result<ExitClass, RankFailure> {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => Ok(exit_class::DONE),
        Ok(Err(error)) => Err(record(0, None, &error)),
        Err(panic) => Err(record_panic(0, None, &*panic)),
    }
}

/// Prints to standard output. A closed pipe is not an error.
fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(EngineError::Machine(format!("cannot write to standard output: {error}")))
        }
        _ => Ok(()),
    }
}
