//! Whole runs, as in a rank program, and the files that they write.

use super::{lay_out, no_cache, on_mesh};
use neva_engine::trainer::{Progress, Registry, RunContext, StopRequest, fit};
use neva_schemas::{Engine, Finetune, LaunchPlan, METRICS_FILE, PLAN_FORMAT, ParallelSizes, RankEnv, RankFailure, Run, RunReport};
use serde_json::Value;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use tch::Device;

/// Returns the plan of a run on one rank.
pub(crate) fn plan(finetune: &Finetune, run_dir: &Path) -> LaunchPlan {
    LaunchPlan {
        format: PLAN_FORMAT,
        version: "test".into(),
        name: finetune.log.name.clone(),
        run_dir: run_dir.to_owned(),
        num_nodes: finetune.trainer.num_nodes,
        ranks_per_node: finetune.trainer.devices,
        env: BTreeMap::new(),
        run: Run::from_finetune(finetune.clone()),
    }
}

/// Executes a whole run, as `neva-rank train` does.
pub(crate) fn run(finetune: &Finetune, run_dir: &Path) -> Result<RunReport, RankFailure> {
    neva_engine::engine().train(&plan(finetune, run_dir), &RankEnv::single())
}

thread_local! {
    /// The stop request of this thread's rank.
    pub(crate) static STOP: RefCell<StopRequest> = RefCell::default();
}

/// Executes a whole run on a mesh of threads, with the test's callbacks. Returns each rank's outcome.
pub(crate) fn run_on(
    finetune: &Finetune,
    run_dir: &Path,
    sizes: ParallelSizes,
    registry: &Registry,
) -> Vec<neva_engine::Result<RunReport>> {
    let mut finetune = finetune.clone();
    lay_out(&mut finetune, sizes);
    finetune.trainer.devices = sizes.world();
    let (plan, cache) = (plan(&finetune, run_dir), no_cache());
    on_mesh(sizes, |mesh| {
        let stop = StopRequest::default();
        STOP.set(stop.clone());
        let context = RunContext {
            run_dir,
            mesh,
            device: Device::Cpu,
            cache: &cache,
            registry,
            stop: &stop,
            environment: |_| None,
        };
        fit(&plan, context, &Progress::default())
    })
}

/// Returns the bits of a run's losses.
pub(crate) fn bits(losses: &[f64]) -> Vec<u64> {
    losses.iter().map(|loss| loss.to_bits()).collect()
}

/// Returns the lines of a JSON file, or none if there is no file.
pub(crate) fn json_lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Returns the training steps that have a line in a run's metrics.
pub(crate) fn logged_steps(run_dir: &Path) -> Vec<u64> {
    let lines = json_lines(&run_dir.join(METRICS_FILE));
    let steps = lines.iter().filter(|line| line.get("reduced_train_loss").is_some());
    steps.map(|line| line["step"].as_u64().unwrap()).collect()
}

/// Returns the lines of a run's validations.
pub(crate) fn validations(run_dir: &Path) -> Vec<Value> {
    let lines = json_lines(&run_dir.join(METRICS_FILE));
    lines.into_iter().filter(|line| line.get("val_loss").is_some()).collect()
}
