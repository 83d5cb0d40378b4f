//! Stall of training for a checkpoint of 500 MB. With an asynchronous save, the bound is 5 % of an interval of 10 s.
//!
//!     cargo bench --workspace --bench save_stall
#![expect(clippy::print_stdout, reason = "a benchmark's answer")]

mod bounds;

use bounds::Bounds;
use neva_engine::checkpoint::{BaseReference, HostMemory, RunProgress, Saving, Snapshot};
use neva_engine::comm::Mesh;
use neva_engine::optim::{Optimizer, Partition};
use neva_engine::parameters::{Parameter, Parameters};
use neva_layout::{Cut, Init, ParamSpec, Part, PartialSum, Stage};
use neva_recipes::neva_tiny;
use neva_schemas::Run;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use tch::{Device, Kind, Tensor};

/// Weights and two moments of 4 bytes.
const STATE: usize = 500_000_000;
const INTERVAL: Duration = Duration::from_secs(10);
/// Longest stall of an asynchronous save, in percent of the interval.
const BOUND: f64 = 5.0;
const TENSORS: usize = 20;
const COLUMNS: usize = 1024;

fn main() -> neva_engine::Result<ExitCode> {
    let mut parameters = Parameters::default();
    let rows = STATE / 12 / TENSORS / COLUMNS;
    for number in 0..TENSORS {
        let spec = ParamSpec {
            name: format!("weight{number:02}"),
            shape: vec![rows, COLUMNS],
            init: Init::Zeros,
            cut: Cut::Replicate,
            heads: None,
            stage: Stage::First,
            part: Part::Language,
            adapts: None,
            lora: None,
            partial_sum: PartialSum::Never,
            used: true,
        };
        let tensor = Tensor::zeros([rows as i64, COLUMNS as i64], (Kind::Float, Device::Cpu)).set_requires_grad(true);
        parameters.insert(Parameter {
            spec,
            tensor,
            trainable: true,
            quantized: None,
        });
    }
    let run = Run::from_finetune(neva_tiny::finetune_recipe(neva_tiny::default_args()));
    let finetune = &run.finetune;
    let partition = Partition::new(&parameters, finetune, &Mesh::single());
    let optimizer = Optimizer::new(&finetune.optim, &finetune.trainer.strategy.ddp, &parameters, &partition)?;
    let folder = tempfile::tempdir().map_err(|error| neva_engine::EngineError::Machine(error.to_string()))?;
    let memory = HostMemory::default();
    let mut bounds = Bounds::default();
    let mut progress = RunProgress::default();
    for (copied, what) in [(false, "synchronous save"), (true, "asynchronous save")] {
        for _ in 0..3 {
            progress.steps_done += 1;
            let snapshot = Snapshot {
                run: &run,
                progress: &progress,
                base: &BaseReference::Seed { seed: 0 },
                parameters: &parameters,
                fp8: None,
                optimizer: &optimizer,
                artifacts: &Vec::new(),
            };
            let started = Instant::now();
            let saving = Saving::start(folder.path(), &snapshot, copied.then_some(&memory), &Mesh::single())?;
            let stall = started.elapsed();
            saving.finish(&Mesh::single())?;
            let whole = started.elapsed();
            let stall = if copied { stall } else { whole };
            let percent = 100.0 * stall.as_secs_f64() / INTERVAL.as_secs_f64();
            // A synchronous save depends on the disk, so it has no bound.
            let bound = if copied { bounds.at_most(percent, BOUND) } else { String::new() };
            println!(
                "{what}: written after {:.3} s, training stalls for {:.3} s, {percent:.2} % of {} s{bound}",
                whole.as_secs_f64(),
                stall.as_secs_f64(),
                INTERVAL.as_secs(),
            );
        }
    }
    Ok(bounds.finish())
}
