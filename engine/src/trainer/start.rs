//! Prepares a run: chooses its checkpoint, loads data and weights, and creates the state of the training loop.

use super::batches::{Batching, TrainBatches};
use super::context::RunContext;
use super::dataset::RunData;
use super::fit::{Fit, State};
use super::labels::{LabelWarnings, require_labels};
use super::loaded::LoadedModel;
use super::profiled_steps::ProfiledSteps;
use super::records::Records;
use super::rows::{train_rows, validation_rows};
use super::step::Trainer;
use super::stop::Clocks;
use crate::checkpoint::{
    Adapter, Artifacts, Base, BaseReference, CheckpointFolder, HostMemory, ModelCache, RunProgress, Sources, choose_checkpoint,
    refuse_past_end, resolve_restore, restore_fp8, restore_optimizer, resume_from,
};
use crate::comm::{Axis, Mesh, decide_on_first_rank};
use crate::error::{EngineError, Result};
use crate::processor_kernels::{changed_kernels, processor_kernels};
use neva_data::{ImageProcessor, ModelFolders, RecordFile};
use neva_layout::{is_trainable, unmatched_optim_settings};
use neva_schemas::{Finetune, LaunchPlan, Problem, RunReport};
use std::path::{Path, PathBuf};
use tch::Device;

impl<'a> Fit<'a> {
    /// Prepares everything up to the first step. The order matters: the checkpoint determines what is loaded, the data
    /// determines the number of steps, and nothing is written before everything is checked.
    pub(super) fn set_up(plan: &'a LaunchPlan, context: RunContext<'a>) -> Result<Self> {
        let RunContext { run_dir, mesh, device, .. } = context;
        let finetune = &plan.run.finetune;
        let mut callbacks = context.registry.callbacks(&finetune.trainer.callbacks)?;
        let data_module = context.registry.data_module(&context.cache.with_paths(&finetune.data))?;
        let resumed = resume(finetune, run_dir, &mesh)?;
        let adapter = finetune.resume.adapter_path.as_deref().map(Adapter::open).transpose()?;
        let base = Base::of(finetune, context.cache)?;
        let reference = decide_on_first_rank(&mesh, || reference(&base, resumed.as_ref(), adapter.as_ref()))?;
        let sources = Sources {
            checkpoint: resumed.as_ref(),
            adapter: adapter.as_ref(),
            base: &base,
            cache: context.cache,
        };
        let (tokenizer, images) = (
            artifact_folder(finetune, &base, context.cache)?,
            processor_folder(finetune, &base, resumed.as_ref(), context.cache)?,
        );
        let record_cache = RecordFile::cache_folder(context.environment);
        let folders = ModelFolders {
            tokenizer: tokenizer.as_deref(),
            image_processor: images.as_deref(),
            record_cache: record_cache.as_deref(),
        };
        let profiler = mesh.profiler().clone();
        let data = {
            let _open = profiler.span("open data");
            data_module.open_with(finetune, folders)?
        };
        same_files_on_all_ranks(&mesh, &data.artifacts)?;
        same_samples_on_all_ranks(&mesh, &data)?;
        let samples = data.train.len() as u64;
        if samples == 0 {
            return Err(EngineError::Run(vec![Problem::error(
                "finetune.data",
                "the data module has no sample to train on",
            )]));
        }
        require_labels(&*data.train, finetune)?;
        let mut progress = resumed
            .as_ref()
            .map(|checkpoint| checkpoint.state.progress.clone())
            .unwrap_or_default();
        let rows = {
            let _rows = profiler.span("order rows");
            train_rows(finetune, &data.train, &progress, &mesh)?
        };
        let total_steps = finetune.trainer.total_steps(finetune.data.global_batch_size(), |epochs, limit| {
            let rows = rows.rows_of(epochs, limit)?;
            Ok::<_, EngineError>(rows.unwrap_or(epochs.saturating_mul(samples)))
        })?;
        // Weights come after the data: an error in the data is found before weights take minutes to load.
        let loaded = {
            let _load = profiler.span("load weights");
            LoadedModel::load(finetune, context.registry.models(), sources, &mesh, device)?
        };
        check_trainable(&loaded, finetune)?;
        let own = resumed.as_ref().is_some_and(|checkpoint| checkpoint.path.starts_with(run_dir));
        if let Some(checkpoint) = resumed.as_ref().filter(|_| !own) {
            refuse_past_end(finetune, checkpoint, total_steps)?;
        }
        let optimizer = profiler.span("create optimizer");
        let mut trainer = Trainer::new(finetune, loaded, mesh)?;
        if let Some(checkpoint) = resumed.as_ref().or(moments(finetune, &base)?.as_ref()) {
            let group = trainer.mesh().axis(Axis::Tensor);
            restore_optimizer(checkpoint, trainer.optimizer(), trainer.parameters(), (group.rank(), group.size()))?;
            restore_scales(checkpoint, &trainer)?;
        }
        drop(optimizer);
        let first_step = resumed.as_ref().map_or(0, CheckpointFolder::steps_done);
        let mut records = Records::none(run_dir);
        decide_on_first_rank(trainer.mesh(), || {
            records = Records::open(plan, run_dir, &trainer, first_step..total_steps, context.environment)?;
            Ok(())
        })?;
        if let Some(state) = &progress.loss_scale {
            trainer.restore_loss_scale(state);
        }
        for (callback, state) in callbacks.iter_mut().zip(&progress.callbacks) {
            callback.restore(state)?;
        }
        note_kernels(&mut progress, trainer.mesh(), device)?;
        progress.total_steps = total_steps;
        // A finished run of this folder has no step left. A run of another folder passed `refuse_past_end`.
        progress.finished &= own;
        let batching = Batching::of(finetune, &trainer, device)?;
        let batches = TrainBatches::start(
            batching,
            data.train.clone(),
            rows.clone(),
            progress.consumed_samples,
            profiler.clone(),
        )?;
        let val_rows = data.val.as_ref().and_then(|val| validation_rows(finetune, val));
        let checkpoint = resumed.as_ref().filter(|_| own).map(|checkpoint| checkpoint.path.clone());
        Ok(Self {
            batches,
            callbacks,
            records,
            clocks: Clocks::start(finetune.trainer.max_time, finetune.log.ckpt.train_time_interval),
            stop: context.stop,
            data,
            batching,
            label_warnings: LabelWarnings::new(trainer.mesh().is_first()),
            rows,
            val_rows,
            base: reference,
            last_saved: resumed.as_ref().map(CheckpointFolder::steps_done),
            saving: None,
            memory: HostMemory::default(),
            profiled: ProfiledSteps::new(finetune.trainer.profile_steps),
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

/// Notes the kernels of this rank's processor. Warns if they differ from those of the checkpoint or of the first rank.
fn note_kernels(progress: &mut RunProgress, mesh: &Mesh, device: Device) -> Result<()> {
    let own = processor_kernels(device);
    let first = decide_on_first_rank(mesh, || Ok(own.clone()))?;
    if let (Some(own), Some(first), false) = (&own, &first, own == first) {
        tracing::warn!("the processor of this rank computes with other kernels ({own}) than that of the first rank ({first})");
    }
    let changed = changed_kernels(progress.kernels.as_deref(), first.as_deref());
    if let Some(warning) = changed.filter(|_| mesh.is_first()) {
        tracing::warn!("{warning}");
    }
    progress.kernels = first;
    Ok(())
}

/// Opens the checkpoint that the run resumes from.
fn resume(finetune: &Finetune, run_dir: &Path, mesh: &Mesh) -> Result<Option<CheckpointFolder>> {
    let checkpoint = choose_checkpoint(mesh, || Ok(resume_from(finetune, run_dir)?.map(|checkpoint| checkpoint.path)))?;
    if let Some(checkpoint) = checkpoint.as_ref().filter(|_| mesh.is_first()) {
        tracing::info!("resumes from {} after {} steps", checkpoint.path.display(), checkpoint.steps_done());
        let before = &checkpoint.run.finetune.data;
        if before.stream() != finetune.data.stream() {
            let consumed = checkpoint.state.progress.consumed_samples;
            tracing::warn!("finetune.data differs from that of the checkpoint: the run continues at sample {consumed} of the new data");
        }
    }
    Ok(checkpoint)
}

/// Returns the reference to the base, checked against those of the checkpoint and the adapter that the run starts from.
fn reference(base: &Base, resumed: Option<&CheckpointFolder>, adapter: Option<&Adapter>) -> Result<BaseReference> {
    let reference = base.reference()?;
    if let Some(checkpoint) = resumed {
        checkpoint.check_base(&reference, "finetune.resume")?;
    }
    if let Some(adapter) = adapter {
        adapter.verify(&reference)?;
    }
    Ok(reference)
}

/// Opens the checkpoint whose moments the run starts with, if the recipe asks for them.
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

/// Restores the scales of FP8 linears. Warns of those that the checkpoint lacks.
fn restore_scales(checkpoint: &CheckpointFolder, trainer: &Trainer) -> Result<()> {
    let Some(fp8) = trainer.fp8() else { return Ok(()) };
    let missing = restore_fp8(checkpoint, fp8)?;
    if missing > 0 && trainer.mesh().is_first() {
        let path = checkpoint.path.display();
        tracing::warn!("{path} holds no FP8 scales of {missing} linears, which start at 1: its run had another recipe");
    }
    Ok(())
}

/// Returns the folder of the image processor. A checkpoint that the run resumes has the one that it used.
fn processor_folder(finetune: &Finetune, base: &Base, resumed: Option<&CheckpointFolder>, cache: &ModelCache) -> Result<Option<PathBuf>> {
    if let Some(checkpoint) = resumed.filter(|checkpoint| ImageProcessor::file_in(&checkpoint.path).is_some()) {
        return Ok(Some(checkpoint.path.clone()));
    }
    match (&finetune.resume.restore_config, base.vision_folder()) {
        (Some(restore), _) if !restore.load_artifacts => Ok(None),
        (Some(restore), None) => resolve_restore(&restore.path, cache).map(Some),
        (_, folder) => Ok(folder.map(Path::to_owned)),
    }
}

/// Checks that every rank has the tokenizer and image processor of the first rank. Ranks on several machines may find
/// different files under the same name.
fn same_files_on_all_ranks(mesh: &Mesh, files: &Artifacts) -> Result<()> {
    let own: Vec<_> = files
        .iter()
        .map(|(name, content)| (name.clone(), blake3::hash(content).to_hex().to_string()))
        .collect();
    let first = decide_on_first_rank(mesh, || Ok(own.clone()))?;
    let differs = own.iter().chain(&first).find(|file| !own.contains(file) || !first.contains(file));
    match differs {
        None => Ok(()),
        Some((name, _)) => Err(EngineError::Run(vec![
            Problem::error(
                "finetune.data",
                format!("`{name}` of this rank differs from that of the first rank"),
            )
            .help("make the folders of the model and of the data the same on all machines"),
        ])),
    }
}

/// Checks that every rank has the samples of the first rank: with other ones, the ranks of a pipeline would train on
/// different samples.
fn same_samples_on_all_ranks(mesh: &Mesh, data: &RunData) -> Result<()> {
    let own = [Some(&data.train), data.val.as_ref()].map(|samples| samples.map(|samples| samples.identity()));
    if decide_on_first_rank(mesh, || Ok(own.clone()))? == own {
        return Ok(());
    }
    let message = "the samples of this rank differ from those of the first rank: their files, the skip list, or which records are broken";
    let help = "make the data files and images the same on all machines";
    Err(EngineError::Run(vec![Problem::error("finetune.data", message).help(help)]))
}

/// Returns the folder of the tokenizer.
fn artifact_folder(finetune: &Finetune, base: &Base, cache: &ModelCache) -> Result<Option<PathBuf>> {
    match &finetune.resume.restore_config {
        Some(restore) if !restore.load_artifacts => Ok(None),
        Some(restore) => resolve_restore(&restore.path, cache).map(Some),
        None => Ok(base.folder().map(Path::to_owned)),
    }
}

/// Refuses a run without trainable parameters. Warns of parameter groups that match none.
fn check_trainable(loaded: &LoadedModel, finetune: &Finetune) -> Result<()> {
    let trained = loaded.specs.iter().filter(|spec| spec.used && is_trainable(spec, finetune));
    let trained: Vec<_> = trained.collect();
    if trained.is_empty() {
        return Err(EngineError::Run(vec![Problem::error(
            "finetune",
            "every parameter is frozen: there is nothing to train",
        )]));
    }
    for unmatched in unmatched_optim_settings(&finetune.optim, trained.iter().copied()) {
        tracing::warn!("finetune.optim.{unmatched}");
    }
    Ok(())
}
