//! `neva-rank`: the program that executors start.

use super::device::check_libtorch;
use super::environment::lookup;
use super::failure::{record, record_panic};
use super::run::engine;
use crate::checkpoint::{Base, CheckpointFolder, ModelCache, SHARD_BYTES, export_hugging_face};
use crate::error::{EngineError, Result};
use crate::generate::generate;
use crate::trainer::{Registry, StopRequest};
use clap::{Args, Parser, Subcommand};
use neva_schemas::{Engine, GenerateRequest, LaunchPlan, RankEnv, RankFailure, env, exit_class};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// One rank of a run. Usually started by neva-run.
#[derive(Debug, Parser)]
#[command(name = "neva-rank", version)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Trains as the rank that torchrun's variables name; alone without them.
    Train(Train),
    /// Answers a question about pictures.
    Generate(Generate),
    /// Writes the model of a checkpoint as a folder that Hugging Face's transformers loads, adapters merged.
    Export(Export),
    /// Prints what was built and loaded, as one line of JSON.
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

#[derive(Debug, Args)]
struct Generate {
    /// A checkpoint, or a run's folder, whose newest checkpoint is taken.
    #[arg(long)]
    checkpoint: PathBuf,
    /// A picture; once for each `<image>` of the prompt.
    #[arg(long = "image")]
    images: Vec<PathBuf>,
    /// The question.
    #[arg(long)]
    prompt: String,
    /// Longest answer, in tokens.
    #[arg(long, default_value_t = 64)]
    max_new_tokens: usize,
}

#[derive(Debug, Args)]
struct Export {
    /// A checkpoint of any layout, or a run's folder, whose newest checkpoint is taken.
    checkpoint: PathBuf,
    /// The folder to make.
    out: PathBuf,
}

/// The program: parses arguments, does the verb, and turns the outcome into an exit code. A run may name the types
/// of `registry`.
pub fn rank_main(registry: Registry) -> ExitCode {
    let filter = lookup(env::NEVA_LOG).unwrap_or_else(|| "info".into());
    let filter = tracing_subscriber::EnvFilter::try_new(filter).unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    match Cli::parse().verb {
        Verb::Train(args) => train(&args, registry),
        Verb::Generate(args) => verb(|| {
            let request = GenerateRequest {
                checkpoint: args.checkpoint.clone(),
                images: args.images.clone(),
                prompt: args.prompt.clone(),
                max_new_tokens: args.max_new_tokens,
            };
            print(&generate(&request, &ModelCache::locate(lookup))?);
            Ok(())
        }),
        Verb::Export(args) => verb(|| {
            let cache = ModelCache::locate(lookup);
            let checkpoint = CheckpointFolder::find(&args.checkpoint)?;
            checkpoint.verify()?;
            let base = Base::of(&checkpoint.run.finetune, &cache)?;
            Base::check(&base.reference()?, &checkpoint, "CHECKPOINT")?;
            export_hugging_face(&checkpoint, &base, &cache, &args.out, SHARD_BYTES)
        }),
        Verb::Version => verb(|| {
            let libtorch = neva_torch_ffi::libtorch_version()?;
            let cuda = neva_torch_ffi::load_cuda()? && tch::Cuda::is_available();
            print(&serde_json::json!({ "version": env!("CARGO_PKG_VERSION"), "libtorch": libtorch, "cuda": cuda }).to_string());
            check_libtorch().map(drop)
        }),
    }
}

fn train(args: &Train, registry: Registry) -> ExitCode {
    let outcome = read_plan(&args.plan, args.remove_plan)
        .map_err(|error| record(0, None, &error))
        .and_then(|plan| {
            let rank = RankEnv::read(lookup).map_err(|text| input(&text))?.unwrap_or_else(RankEnv::single);
            tracing::debug!("rank {} of {} is process {}", rank.rank, rank.world_size, std::process::id());
            die_with_the_launcher();
            let stop = StopRequest::on_signals().map_err(|error| record(rank.rank, None, &error))?;
            let engine = engine().registry(registry).stop(stop);
            match engine.train(&plan, &rank) {
                Ok(report) => Ok((rank, report)),
                Err(failure) => Err(RankFailure {
                    rank: rank.rank,
                    ..failure
                }),
            }
        });
    match outcome {
        Ok((rank, report)) => {
            // All have the same report.
            if let Some(checkpoint) = report.checkpoint.as_ref().filter(|_| rank.rank == 0) {
                tracing::info!("checkpoint {}", checkpoint.display());
            }
            // Whoever waits for the whole run must not go on with a part of it.
            let Some(signal) = report.stopped else {
                return ExitCode::from(exit_class::DONE);
            };
            tracing::warn!("stopped by {signal} after {} steps", report.steps);
            ExitCode::from(exit_class::JOB)
        }
        Err(failure) => fail(&failure),
    }
}

/// A launcher that is killed cannot end its ranks: where it asked for it, the system does.
fn die_with_the_launcher() {
    if lookup(env::NEVA_DIE_WITH_PARENT).is_some_and(|value| value == "1") {
        let signal = Some(rustix::process::Signal::TERM);
        if let Err(error) = rustix::process::set_parent_process_death_signal(signal) {
            tracing::warn!("this rank would outlive a killed launcher: {error}");
        }
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

fn input(text: &str) -> RankFailure {
    RankFailure {
        class: exit_class::INPUT,
        rank: 0,
        step: None,
        unix_ms: 0,
        chain: vec![text.into()],
        by_peer: false,
    }
}

fn verb(body: impl FnOnce() -> Result<()>) -> ExitCode {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => ExitCode::from(exit_class::DONE),
        Ok(Err(error)) => fail(&record(0, None, &error)),
        Err(panic) => fail(&record_panic(0, None, &*panic)),
    }
}

#[expect(clippy::print_stderr, reason = "the program's last word")]
fn fail(failure: &RankFailure) -> ExitCode {
    eprintln!("error: {failure}");
    ExitCode::from(failure.class)
}

#[expect(clippy::print_stdout, reason = "the program's answer")]
fn print(text: &str) {
    println!("{text}");
}
