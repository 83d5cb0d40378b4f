//! The loop: data, steps, metrics, checkpoints.

use super::batch::to_device;
use super::dataset::{TrainData, train_data};
use super::loaded::LoadedModel;
use super::metrics::{Metrics, MetricsFile};
use super::step::{Microbatch, Trainer};
use crate::checkpoint::{Base, ModelCache, Snapshot, restore_optimizer, resume_from, save};
use crate::comm::{Axis, Mesh};
use crate::error::{EngineError, Result};
use crate::optim::learning_rate;
use neva_data::{BatchSlice, Loader, MergeOptions, Order};
use neva_layout::summary;
use neva_schemas::{Finetune, LaunchPlan, METRICS_FILE, Problem, REPORT_FILE, RunReport};
use std::cell::Cell;
use std::path::Path;
use std::time::Instant;
use tch::Device;

/// Prepared batches that each data worker keeps ready.
const PREFETCH: usize = 2;

/// How far a run has come, for whoever reports its failure.
#[derive(Debug, Default)]
pub struct Progress {
    /// Optimizer step that is under way, from 0.
    pub step: Cell<Option<u64>>,
}

/// Trains as one rank of `mesh` until `max_steps`.
///
/// # Errors
/// Whatever goes wrong; the last checkpoint is whole.
pub fn fit(plan: &LaunchPlan, run_dir: &Path, mesh: Mesh, device: Device, cache: &ModelCache, progress: &Progress) -> Result<RunReport> {
    let finetune = &plan.run.finetune;
    let runs = run_dir.parent().unwrap_or(run_dir);
    let resumed = resume_from(finetune, runs)?;
    let base = Base::of(finetune, cache)?;
    let loaded = LoadedModel::load(finetune, &base, resumed.as_ref(), cache, &mesh, device)?;
    if loaded.parameters.trainable().next().is_none() {
        return Err(EngineError::Run(vec![Problem::error(
            "finetune",
            "every parameter is frozen: there is nothing to train",
        )]));
    }
    if mesh.is_first() {
        announce_parameters(&loaded, finetune);
    }
    let mut trainer = Trainer::new(finetune, loaded, mesh);
    let (first_step, mut consumed) = match &resumed {
        Some(checkpoint) => {
            let tensor_group = trainer.mesh().axis(Axis::Tensor);
            restore_optimizer(
                checkpoint,
                trainer.optimizer(),
                trainer.parameters(),
                (tensor_group.rank(), tensor_group.size()),
            )?;
            tracing::info!(
                "goes on from {} after {} steps",
                checkpoint.path.display(),
                checkpoint.state.steps_done
            );
            (checkpoint.state.steps_done, checkpoint.state.consumed_samples)
        }
        None => (0, 0),
    };
    let base_folder = match &base {
        Base::HuggingFace(path) | Base::Checkpoint(path) => Some(path.as_path()),
        Base::Seed(_) => None,
    };
    let data = train_data(finetune, base_folder)?;
    let mut batches = Batches::start(finetune, &data, trainer.mesh(), consumed)?;
    let checkpoints = run_dir.join("checkpoints");
    let mut metrics = if trainer.mesh().is_first() {
        std::fs::create_dir_all(&checkpoints).map_err(EngineError::io("create", &checkpoints))?;
        Some(MetricsFile::open(&run_dir.join(METRICS_FILE))?)
    } else {
        None
    };
    let (max_steps, ckpt) = (finetune.trainer.max_steps, &finetune.log.ckpt);
    let mut report = RunReport {
        run_dir: run_dir.to_owned(),
        steps: first_step,
        losses: Vec::new(),
        checkpoint: None,
    };
    for step in first_step..max_steps {
        progress.step.set(Some(step));
        let started = Instant::now();
        let lr = learning_rate(finetune.optim.adamw(), max_steps, step);
        let done = trainer.step(&batches.next_step(device)?, lr, step)?;
        consumed += finetune.data.global_batch_size();
        report.losses.push(done.loss);
        report.steps = step + 1;
        let last = step + 1 == max_steps;
        let line = Metrics::new(step, &done, lr, consumed, started.elapsed().as_secs_f64());
        if let Some(file) = metrics
            .as_mut()
            .filter(|_| last || step.is_multiple_of(finetune.trainer.log_every_n_steps))
        {
            file.append(&line)?;
            announce(&line, max_steps);
        }
        let due = ckpt.every_n_train_steps.is_some_and(|every| (step + 1).is_multiple_of(every));
        if due || (last && ckpt.save_on_train_end) {
            let snapshot = Snapshot {
                run: &plan.run,
                steps_done: step + 1,
                consumed_samples: consumed,
                loss: Some(done.loss),
                parameters: trainer.parameters(),
                optimizer: trainer.optimizer(),
                artifacts: &data.artifacts,
            };
            report.checkpoint = Some(save(&checkpoints, &snapshot, trainer.mesh(), ckpt.save_top_k)?);
        }
    }
    if trainer.mesh().is_first() {
        write_report(&run_dir.join(REPORT_FILE), &report)?;
    }
    // Rank 0 may still be writing: a run is over when its last checkpoint is there.
    let done = tch::Tensor::from(0i64);
    trainer.mesh().world().all_reduce(&done, crate::comm::Reduce::Sum)?;
    Ok(report)
}

/// This rank's micro-batches, step by step.
struct Batches {
    loader: Loader<neva_data::Batch>,
    per_step: u64,
    image_seq_len: usize,
}

impl Batches {
    fn start(finetune: &Finetune, data: &TrainData, mesh: &Mesh, consumed: u64) -> Result<Self> {
        let image_seq_len = finetune.model.llava().image_seq_length();
        let group = mesh.axis(Axis::Data);
        let slice = BatchSlice {
            global_batch_size: finetune.data.global_batch_size(),
            micro_batch_size: finetune.data.micro_batch_size(),
            data_parallel_size: group.size() as u64,
            data_parallel_rank: group.rank() as u64,
        };
        if let Some(problem) = slice.problem() {
            return Err(EngineError::Run(vec![Problem::error("finetune.data.global_batch_size", problem)]));
        }
        let options = MergeOptions {
            image_seq_len,
            max_length: finetune.data.seq_length(),
            row_multiple: 1,
            fixed_length: false,
        };
        let order = Order {
            seed: finetune.data.seed(),
            len: data.dataset.len() as u64,
            shuffle: true,
        };
        let dataset = data.dataset.clone();
        let source = move |n| Some(neva_data::Batch::microbatch(&*dataset, &order, &slice, &options, consumed, n));
        let loader = Loader::new(source, finetune.data.num_workers(), PREFETCH)?;
        Ok(Self {
            loader,
            per_step: slice.num_microbatches(),
            image_seq_len,
        })
    }

    fn next_step(&mut self, device: Device) -> Result<Vec<Microbatch>> {
        (0..self.per_step)
            .map(|_| {
                let batch = self
                    .loader
                    .next()
                    .ok_or_else(|| EngineError::Bug("the endless stream of batches ended".into()))??;
                let tokens = &batch.tokens;
                Ok(Microbatch {
                    labels: tokens.total_labels() as u64,
                    tokens: tokens.seq_lens.iter().sum::<usize>() as u64,
                    zero_label_samples: tokens.num_labels.iter().filter(|labels| **labels == 0).count() as u64,
                    batch: to_device(&batch, self.image_seq_len, device)?,
                })
            })
            .collect()
    }
}

/// What is trained, by part: the effective result of every freeze flag.
#[expect(clippy::print_stdout, reason = "a user checks this table before the run goes on for hours")]
fn announce_parameters(loaded: &LoadedModel, finetune: &Finetune) {
    println!("{:<12}{:>16}{:>16}", "part", "parameters", "trained");
    let specs: Vec<_> = loaded.parameters.iter().map(|parameter| parameter.spec.clone()).collect();
    for line in summary(&specs, finetune) {
        println!(
            "{:<12}{:>16}{:>16}",
            format!("{:?}", line.part).to_lowercase(),
            line.total,
            line.trainable
        );
    }
}

fn write_report(path: &Path, report: &RunReport) -> Result<()> {
    let json = serde_json::to_vec(report).map_err(|error| EngineError::Bug(format!("the report cannot be written: {error}")))?;
    let aside = path.with_extension("writing");
    std::fs::write(&aside, json)
        .and_then(|()| std::fs::rename(&aside, path))
        .map_err(EngineError::io("write", path))
}

#[expect(clippy::print_stdout, reason = "the one line that a user watches")]
fn announce(line: &Metrics, max_steps: u64) {
    println!(
        "step {}/{max_steps}  loss {:.4}  lr {:.3e}  grad norm {:.3}  {:.0} tokens/s",
        line.step + 1,
        line.reduced_train_loss,
        line.lr,
        line.grad_norm,
        line.tokens_per_second
    );
}
