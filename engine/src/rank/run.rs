//! Trains a plan as one rank.

use super::device::{check_libtorch, set_up};
use super::environment::lookup;
use super::failure::{append, record, record_panic};
use crate::checkpoint::ModelCache;
use crate::comm::{CommError, Handshake, Mesh, Nccl, NcclWorld, Rendezvous, rendezvous};
use crate::error::{EngineError, Result};
use crate::profiler::Profiler;
use crate::trainer::{Progress, Registry, RunContext, StopRequest, fit};
use neva_schemas::{Engine, LaunchPlan, PLAN_FORMAT, ParallelSizes, Problem, RankEnv, RankFailure, RunReport, Severity, Validate};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tch::Device;

/// Returns the engine for `neva_run::RunOptions::direct`.
pub fn engine() -> LibtorchEngine {
    LibtorchEngine::default()
}

/// Trains on libtorch.
#[derive(Debug, Clone, Default)]
pub struct LibtorchEngine {
    registry: Registry,
    stop: StopRequest,
}

impl LibtorchEngine {
    /// Sets the types that a recipe may name. The default is the built-in ones.
    #[must_use]
    pub fn registry(mut self, registry: Registry) -> Self {
        self.registry = registry;
        self
    }

    /// Sets the stop request. An engine in a caller's process handles no signals itself.
    #[must_use]
    pub fn stop(mut self, request: StopRequest) -> Self {
        self.stop = request;
        self
    }
}

impl Engine for LibtorchEngine {
    fn train(&self, plan: &LaunchPlan, rank: &RankEnv) -> Result<RunReport, RankFailure> {
        let progress = Progress::default();
        // Failures are recorded in rank 0's folder, once it is known.
        let mut run_dir = plan.run_dir.clone();
        let outcome = catch_unwind(AssertUnwindSafe(|| train(self, plan, rank, &mut run_dir, &progress)));
        let step = progress.step.get();
        let failure = match outcome {
            Ok(Ok(report)) => return Ok(report),
            Ok(Err(error)) => record(rank.rank, step, &error),
            Err(panic) => record_panic(rank.rank, step, &*panic),
        };
        append(&run_dir, &failure);
        // The failure is recorded before the wait for the last save.
        drop(progress);
        Err(failure)
    }
}

fn train(engine: &LibtorchEngine, plan: &LaunchPlan, rank: &RankEnv, run_dir: &mut PathBuf, progress: &Progress) -> Result<RunReport> {
    if plan.format != PLAN_FORMAT {
        return Err(EngineError::Content {
            path: run_dir.join("plan.json"),
            reason: format!("format {}, this program reads format {PLAN_FORMAT}", plan.format),
        });
    }
    let trainer = &plan.run.finetune.trainer;
    let problems: Vec<_> = plan
        .run
        .problems("")
        .into_iter()
        .filter(|problem| problem.severity == Severity::Error)
        .collect();
    if !problems.is_empty() {
        return Err(EngineError::Run(problems));
    }
    let sizes = ParallelSizes::from_trainer(trainer).ok_or_else(|| EngineError::Bug("a valid run has parallel sizes".into()))?;
    if sizes.world() != rank.world_size {
        return Err(EngineError::Run(vec![
            Problem::error(
                "finetune.trainer",
                format!("the run needs {} ranks, but {} were started", sizes.world(), rank.world_size),
            )
            .help("set num_nodes and num_gpus_per_node to match the ranks that were started"),
        ]));
    }
    let device = set_up(trainer, rank)?;
    let cache = ModelCache::locate(lookup);
    let timeout = Duration::from_secs(trainer.timeout_s);
    let profiler = trainer.profile_steps.map(|_| Profiler::start(device)).unwrap_or_default();
    let (mesh, connection) = {
        let _connect = profiler.span("rendezvous");
        connect(engine, plan, rank, device, sizes)?
    };
    if let Some(connection) = &connection {
        *run_dir = PathBuf::from(String::from_utf8_lossy(&connection.rendezvous.from_first).into_owned());
    }
    std::fs::create_dir_all(&*run_dir).map_err(EngineError::io("create", run_dir))?;
    let context = RunContext {
        run_dir,
        mesh: mesh.profiled(profiler),
        device,
        cache: &cache,
        registry: &engine.registry,
        stop: &engine.stop,
        environment: lookup,
    };
    let report = fit(plan, context, progress)?;
    if let Some(connection) = connection {
        connection.leave(timeout.min(Duration::from_secs(10)));
    }
    Ok(report)
}

/// Connection of a rank to its peers. Dropping it without [`Self::leave`] reports a failure to them.
struct Connection {
    nccl: Option<NcclWorld<Nccl>>,
    rendezvous: Rendezvous,
}

impl Connection {
    fn leave(self, deadline: Duration) {
        self.nccl.into_iter().for_each(NcclWorld::leave);
        self.rendezvous.leave(deadline);
    }
}

/// Forms the mesh over NCCL for GPUs, or over Gloo for CPUs. Under torchrun every rank resolves the recipe at its own
/// time, so the run's folder is excluded from the handshake: all ranks use rank 0's.
fn connect(
    engine: &LibtorchEngine,
    plan: &LaunchPlan,
    rank: &RankEnv,
    device: Device,
    sizes: ParallelSizes,
) -> Result<(Mesh, Option<Connection>)> {
    let timeout = Duration::from_secs(plan.run.finetune.trainer.timeout_s);
    if rank.world_size == 1 {
        return Ok((Mesh::single(), None));
    }
    let nccl = match device {
        Device::Cuda(gpu) => Some(Nccl::load(gpu)?),
        _ => None,
    };
    let plan_without_dir = LaunchPlan {
        run_dir: PathBuf::new(),
        ..plan.clone()
    };
    let handshake = Handshake {
        plan: serde_json::to_value(&plan_without_dir).map_err(|error| EngineError::Bug(format!("the plan cannot be written: {error}")))?,
        version: env!("CARGO_PKG_VERSION").into(),
        libtorch: check_libtorch()?,
        transport: nccl.as_ref().map_or("gloo".into(), |nccl| format!("nccl {}", nccl.version())),
    };
    let rendezvous = rendezvous(rank, &handshake, path_bytes(&plan.run_dir)?, timeout, &|| {
        engine.stop.is_requested()
    })?;
    let nccl = match nccl {
        Some(nccl) => Some(NcclWorld::new(nccl, &rendezvous.store("nccl")?, rank.rank as usize, timeout)?),
        None => None,
    };
    let mesh = match &nccl {
        Some(nccl) => Mesh::new(sizes, &nccl.over(&rendezvous.factory))?,
        None => Mesh::new(sizes, &rendezvous.factory)?,
    };
    Ok((mesh, Some(Connection { nccl, rendezvous })))
}

fn path_bytes(path: &Path) -> Result<&[u8], CommError> {
    let text = path
        .to_str()
        .ok_or_else(|| CommError::HandshakeMismatch(format!("the run's folder {} is not UTF-8", path.display())))?;
    Ok(text.as_bytes())
}
