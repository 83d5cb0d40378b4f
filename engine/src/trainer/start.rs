//! Where a run starts: what it goes on from, what it loads, and what the loop works on.

use super::batches::{Slicing, TrainBatches};
use super::fit::{Fit, State, Surroundings};
use super::loaded::LoadedModel;
use super::records::Records;
use super::step::Trainer;
use super::stop::Clocks;
use crate::checkpoint::{
    Adapter, Base, BaseReference, CheckpointFolder, HostMemory, ModelCache, Sources, refuse_past_end, resolve_restore, restore_optimizer,
    resume_from,
};
use crate::comm::{Axis, Mesh, first_decides};
use crate::error::{EngineError, Result};
use neva_data::Order;
use neva_layout::{idle_groups, is_trainable};
use neva_schemas::{Finetune, LaunchPlan, Problem, RunReport};
use std::path::{Path, PathBuf};

impl<'a> Fit<'a> {
    /// Everything up to the first step. The order matters: what a run goes on from decides what is loaded, the data
    /// decides how many steps there are, and nothing is written before all of it is known to fit.
    pub(super) fn set_up(plan: &'a LaunchPlan, around: Surroundings<'a>) -> Result<Self> {
        let Surroundings { run_dir, mesh, device, .. } = around;
        let finetune = &plan.run.finetune;
        let mut callbacks = around.registry.callbacks(&finetune.trainer.callbacks)?;
        let data_module = around.registry.data_module(&finetune.data)?;
        let resumed = resume(finetune, run_dir, &mesh)?;
        let adapter = finetune.resume.adapter_path.as_deref().map(Adapter::open).transpose()?;
        let base = Base::of(finetune, around.cache)?;
        let reference = first_decides(&mesh, || reference(&base, resumed.as_ref(), adapter.as_ref()))?;
        let sources = Sources {
            checkpoint: resumed.as_ref(),
            adapter: adapter.as_ref(),
            base: &base,
            cache: around.cache,
        };
        let loaded = LoadedModel::load(finetune, sources, &mesh, device)?;
        check_trainable(&loaded, finetune)?;
        let data = data_module.open(finetune, artifact_folder(finetune, &base, around.cache)?.as_deref())?;
        let samples = data.train.len() as u64;
        if samples == 0 {
            return Err(EngineError::Run(vec![Problem::error(
                "finetune.data",
                "the data module has no sample to train on",
            )]));
        }
        let total_steps = finetune.trainer.total_steps(samples, finetune.data.global_batch_size());
        let own = resumed.as_ref().is_some_and(|checkpoint| checkpoint.path.starts_with(run_dir));
        if let Some(checkpoint) = resumed.as_ref().filter(|_| !own) {
            refuse_past_end(finetune, checkpoint, total_steps)?;
        }
        let trainer = Trainer::new(finetune, loaded, mesh)?;
        if let Some(checkpoint) = resumed.as_ref().or(moments(finetune, &base)?.as_ref()) {
            let group = trainer.mesh().axis(Axis::Tensor);
            restore_optimizer(checkpoint, trainer.optimizer(), trainer.parameters(), (group.rank(), group.size()))?;
        }
        let first_step = resumed.as_ref().map_or(0, CheckpointFolder::steps_done);
        let mut records = Records::none(run_dir);
        first_decides(trainer.mesh(), || {
            records = Records::open(plan, run_dir, &trainer, first_step, around.environment)?;
            Ok(())
        })?;
        let mut progress = resumed
            .as_ref()
            .map(|checkpoint| checkpoint.state.progress.clone())
            .unwrap_or_default();
        for (callback, state) in callbacks.iter_mut().zip(&progress.callbacks) {
            callback.restore(state)?;
        }
        progress.total_steps = total_steps;
        // A finished run of this folder has nothing left to do; one of another folder was let past its end.
        progress.finished &= own;
        let slicing = Slicing::of(finetune, &trainer, device)?;
        let order = Order {
            seed: finetune.data.seed(),
            len: samples,
            shuffle: finetune.data.shuffle(),
        };
        let batches = TrainBatches::start(slicing, data.train.clone(), order, progress.consumed_samples)?;
        let checkpoint = resumed.as_ref().filter(|_| own).map(|checkpoint| checkpoint.path.clone());
        Ok(Self {
            batches,
            callbacks,
            records,
            clocks: Clocks::start(finetune.trainer.max_time, finetune.log.ckpt.train_time_interval),
            stop: around.stop,
            data,
            slicing,
            order,
            base: reference,
            last_saved: resumed.as_ref().map(CheckpointFolder::steps_done),
            saving: None,
            memory: HostMemory::default(),
            state: State {
                run: &plan.run,
                run_dir: run_dir.to_owned(),
                is_first: trainer.mesh().is_first(),
                report: RunReport {
                    run_dir: run_dir.to_owned(),
                    steps: progress.steps_done,
                    losses: Vec::new(),
                    checkpoint,
                    stopped: None,
                    ended_early: None,
                },
                progress,
            },
            trainer,
        })
    }
}

/// The checkpoint that the first rank finds, opened by all.
fn resume(finetune: &Finetune, run_dir: &Path, mesh: &Mesh) -> Result<Option<CheckpointFolder>> {
    let path = first_decides(mesh, || Ok(resume_from(finetune, run_dir)?.map(|checkpoint| checkpoint.path)))?;
    let checkpoint = path.as_deref().map(CheckpointFolder::open).transpose()?;
    if let Some(checkpoint) = checkpoint.as_ref().filter(|_| mesh.is_first()) {
        tracing::info!("goes on from {} after {} steps", checkpoint.path.display(), checkpoint.steps_done());
        let before = &checkpoint.run.finetune.data;
        if before.stream() != finetune.data.stream() {
            let consumed = checkpoint.state.progress.consumed_samples;
            tracing::warn!("finetune.data is not what the checkpoint was trained on: the run goes on at sample {consumed} of the new data");
        }
    }
    Ok(checkpoint)
}

/// What a checkpoint will say of the base; checked against what the checkpoints at the start say of theirs.
fn reference(base: &Base, resumed: Option<&CheckpointFolder>, adapter: Option<&Adapter>) -> Result<BaseReference> {
    let reference = base.reference()?;
    if let Some(checkpoint) = resumed {
        Base::check(&reference, checkpoint, "finetune.resume")?;
    }
    if let Some(adapter) = adapter {
        adapter.verify(&reference)?;
    }
    Ok(reference)
}

/// The checkpoint whose moments a run starts with, where it asks for them.
fn moments(finetune: &Finetune, base: &Base) -> Result<Option<CheckpointFolder>> {
    let asked = finetune
        .resume
        .restore_config
        .as_ref()
        .is_some_and(|restore| restore.load_optim_state);
    match base {
        _ if !asked => Ok(None),
        Base::Checkpoint(path) => CheckpointFolder::open(path).map(Some),
        _ => Err(EngineError::Run(vec![
            Problem::error(
                "finetune.resume.restore_config.load_optim_state",
                "the restored folder is Hugging Face's, which holds no moments",
            )
            .help("set it to false, or restore a checkpoint of this program"),
        ])),
    }
}

/// Where tokenizer and image processor are looked for.
fn artifact_folder(finetune: &Finetune, base: &Base, cache: &ModelCache) -> Result<Option<PathBuf>> {
    match &finetune.resume.restore_config {
        Some(restore) if !restore.load_artifacts => Ok(None),
        Some(restore) => resolve_restore(&restore.path, cache).map(Some),
        None => Ok(base.folder().map(Path::to_owned)),
    }
}

/// There must be something to train; groups of parameters should name some of it.
fn check_trainable(loaded: &LoadedModel, finetune: &Finetune) -> Result<()> {
    let trained = loaded.specs.iter().filter(|spec| is_trainable(spec, finetune));
    let names: Vec<_> = trained.map(|spec| spec.name.as_str()).collect();
    if names.is_empty() {
        return Err(EngineError::Run(vec![Problem::error(
            "finetune",
            "every parameter is frozen: there is nothing to train",
        )]));
    }
    for pattern in idle_groups(&finetune.optim, names.iter().copied()) {
        tracing::warn!("finetune.optim.param_groups: {pattern:?} names no trained parameter");
    }
    Ok(())
}
