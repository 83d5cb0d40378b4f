//! What every test starts from: a small run, ranks that are threads, batches, and a deadline.

use neva_data::{Dataset, Order};
use neva_engine::checkpoint::{
    Artifacts, Base, BaseReference, CheckpointFolder, Checksum, HostMemory, ModelCache, RunProgress, SEAL, Saving, Snapshot, Sources,
    TensorFile, save, write_tensors,
};
use neva_engine::comm::{Axis, Mesh, Reduce, run_ranks};
use neva_engine::parallel::zigzag;
use neva_engine::parameters::Parameter;
use neva_engine::trainer::{
    LoadedModel, Microbatch, Progress, Registry, StopRequest, Surroundings, Trainer, batch_slice, fit, merge_options, run_data, to_device,
};
use neva_recipes::neva_tiny;
use neva_schemas::{
    Accelerator, Callback, CustomCallback, Data, Engine, Finetune, LaunchPlan, LoRA, LrScheduler, METRICS_FILE, MixedPrecision,
    MockDataModule, NevaPreloadedDataModule, PLAN_FORMAT, ParallelSizes, Peft, Plugins, Precision, RankEnv, RankFailure, Run, RunReport,
    TextConfig, VisionConfig,
};
use serde_json::Value;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;
use tch::{Device, Kind, Tensor};

pub(crate) const ONE: ParallelSizes = ParallelSizes::ONE;

/// Longest time that a test takes.
const LIMIT: Duration = Duration::from_secs(900);

/// Longest time that a rank waits for another.
const DEADLINE: Duration = Duration::from_secs(300);

/// Runs a test's body on a thread of its own: one that hangs fails.
pub(crate) fn within_limit<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> T {
    // One thread for each rank, and the same sums in every run.
    tch::set_num_threads(1);
    let (done, outcome) = channel();
    let thread = std::thread::spawn(move || done.send(body()));
    match outcome.recv_timeout(LIMIT) {
        Ok(value) => value,
        Err(RecvTimeoutError::Timeout) => panic!("not done after {LIMIT:?}"),
        Err(RecvTimeoutError::Disconnected) => match thread.join() {
            Err(panic) => std::panic::resume_unwind(panic),
            Ok(_) => panic!("the body ended without a value"),
        },
    }
}

/// `neva_tiny`'s recipe on one CPU thread.
pub(crate) fn tiny() -> Finetune {
    let mut finetune = neva_tiny::finetune_recipe(neva_tiny::default_args());
    finetune.trainer.accelerator = Accelerator::Cpu;
    finetune.trainer.threads_per_rank = Some(1);
    // Tests read whole gradients, which plain data parallelism has on each rank; those of shares ask for them.
    finetune.trainer.strategy.ddp.use_distributed_optimizer = false;
    finetune
}

/// The same family at a size that trains a step in milliseconds; a picture takes 4 positions.
pub(crate) fn small() -> Finetune {
    let mut finetune = tiny();
    let model = finetune.model.llava_mut();
    let text = TextConfig {
        vocab_size: 320,
        hidden_size: 64,
        intermediate_size: 96,
        num_hidden_layers: 2,
        ..model.text_config.clone()
    };
    let vision = VisionConfig {
        hidden_size: 32,
        intermediate_size: 64,
        num_attention_heads: 2,
        image_size: 28,
        ..model.vision_config.clone()
    };
    (model.text_config, model.vision_config, model.image_token_index) = (text, vision, 319);
    finetune.data = Data::Mock(MockDataModule {
        seq_length: 24,
        global_batch_size: 8,
        micro_batch_size: 2,
        num_workers: 0,
        ..MockDataModule::default()
    });
    *finetune.optim.lr_scheduler_mut() = LrScheduler::constant();
    finetune.trainer.max_steps = Some(6);
    finetune
}

pub(crate) fn mock(finetune: &mut Finetune) -> &mut MockDataModule {
    match &mut finetune.data {
        Data::Mock(data) => data,
        _ => unreachable!("the small run trains on mock data"),
    }
}

pub(crate) fn precision(finetune: &mut Finetune, precision: Precision) {
    finetune.trainer.plugins = Plugins::MixedPrecision(MixedPrecision { precision });
}

/// Small adapters on what every recipe adapts, in place of the language model.
pub(crate) fn lora(finetune: &mut Finetune) {
    finetune.peft = Some(Peft::LoRA(LoRA {
        dim: 4,
        alpha: 8.0,
        ..LoRA::default()
    }));
}

/// Small adapters on these modules.
pub(crate) fn adapters(finetune: &mut Finetune, target_modules: &[&str]) {
    finetune.peft = Some(Peft::LoRA(LoRA {
        target_modules: target_modules.iter().map(|target| (*target).to_owned()).collect(),
        dim: 4,
        alpha: 8.0,
        ..LoRA::default()
    }));
}

/// A validation every so many steps, on so many samples.
pub(crate) fn validate(finetune: &mut Finetune, every: u64, samples: u64) {
    finetune.trainer.val_check_interval = Some(every);
    finetune.trainer.limit_val_batches = None;
    mock(finetune).num_val_samples = samples;
}

/// Text and pictures of a file of records in place of mock data, for a model with a vocabulary for them.
pub(crate) fn preload<'a>(finetune: &'a mut Finetune, records: &Path) -> &'a mut NevaPreloadedDataModule {
    finetune.model.llava_mut().text_config.vocab_size = 2048;
    finetune.data = Data::Preloaded(NevaPreloadedDataModule {
        paths: vec![records.to_owned()],
        seq_length: 192,
        global_batch_size: 8,
        micro_batch_size: 2,
        tokenizer: Some("builtin:mistral_2k".into()),
        num_workers: 0,
        ..NevaPreloadedDataModule::default()
    });
    preloaded(finetune)
}

pub(crate) fn preloaded(finetune: &mut Finetune) -> &mut NevaPreloadedDataModule {
    match &mut finetune.data {
        Data::Preloaded(data) => data,
        _ => unreachable!("asked for after `preload`"),
    }
}

/// A callback of a test's own, as a recipe names it.
pub(crate) fn custom(target: &str, mut arguments: Value) -> Callback {
    arguments["_target_"] = target.into();
    Callback::Custom(CustomCallback(arguments.as_object().unwrap().clone()))
}

/// Runs `body` on every rank of a mesh of threads.
pub(crate) fn on_mesh<T: Send>(sizes: ParallelSizes, body: impl Fn(Mesh) -> T + Sync) -> Vec<T> {
    run_ranks(sizes.world() as usize, DEADLINE, |fabric| body(Mesh::new(sizes, &fabric).unwrap()))
}

/// A model cache that holds nothing.
pub(crate) fn no_cache() -> ModelCache {
    ModelCache { path: PathBuf::new() }
}

/// The model of a run on one rank of a mesh.
pub(crate) fn loaded(finetune: &Finetune, mesh: &Mesh) -> LoadedModel {
    load(finetune, None, mesh)
}

/// The model of a run that goes on from a checkpoint.
pub(crate) fn load(finetune: &Finetune, checkpoint: Option<&CheckpointFolder>, mesh: &Mesh) -> LoadedModel {
    let (base, cache) = (Base::of(finetune, &no_cache()).unwrap(), no_cache());
    let sources = Sources {
        checkpoint,
        adapter: None,
        base: &base,
        cache: &cache,
    };
    LoadedModel::load(finetune, sources, mesh, Device::Cpu).unwrap()
}

pub(crate) fn trainer(finetune: &Finetune, mesh: Mesh) -> Trainer {
    Trainer::new(finetune, loaded(finetune, &mesh), mesh).unwrap()
}

/// Changes the sample of that number.
type Edit = dyn Fn(usize, &mut neva_data::Sample) + Send + Sync;

/// The run's mock samples, each changed by `edit`, which is given the sample's number.
#[derive(Clone)]
pub(crate) struct Samples {
    inner: Arc<dyn Dataset>,
    edit: Arc<Edit>,
}

impl Samples {
    pub(crate) fn of(finetune: &Finetune) -> Self {
        Self::edited(finetune, |_, _| {})
    }

    pub(crate) fn edited(finetune: &Finetune, edit: impl Fn(usize, &mut neva_data::Sample) + Send + Sync + 'static) -> Self {
        Self {
            inner: run_data(finetune, None).unwrap().train,
            edit: Arc::new(edit),
        }
    }
}

impl Dataset for Samples {
    fn len(&self) -> usize {
        self.inner.len()
    }

    fn get(&self, index: usize) -> Result<neva_data::Sample, neva_data::DataError> {
        let mut sample = self.inner.get(index)?;
        (self.edit)(index, &mut sample);
        Ok(sample)
    }

    fn name(&self, index: usize) -> String {
        self.inner.name(index)
    }
}

/// Takes the picture out of a sample.
pub(crate) fn without_picture(sample: &mut neva_data::Sample) {
    sample.pictures.clear();
    sample.ids.retain(|id| *id != neva_data::IMAGE);
    sample.labels = sample.ids.clone();
}

/// A sample that teaches nothing.
pub(crate) fn without_labels(sample: &mut neva_data::Sample) {
    sample.labels.fill(neva_data::IGNORE);
}

/// This rank's micro-batches of a step; samples come in the dataset's order.
pub(crate) fn microbatches(finetune: &Finetune, samples: &Samples, mesh: &Mesh, step: u64) -> Vec<Microbatch> {
    let (slice, options) = (batch_slice(finetune, mesh), merge_options(finetune));
    let order = Order {
        seed: 0,
        len: samples.len() as u64,
        shuffle: false,
    };
    let each = slice.num_microbatches();
    assert!(each > 0, "{:?}", slice.problem());
    let batch = |n| neva_data::Batch::microbatch(samples, &order, &slice, &options, 0, n).unwrap();
    (step * each..(step + 1) * each)
        .map(|n| {
            let batch = batch(n);
            let whole = Microbatch::of(
                to_device(&batch, options.image_seq_len, Device::Cpu).unwrap(),
                batch.tokens.seq_lens().iter().sum::<usize>() as u64,
            );
            whole.part(zigzag(mesh)).unwrap()
        })
        .collect()
}

/// What a run left.
pub(crate) struct Trained {
    pub(crate) losses: Vec<f64>,
    /// Norms of the gradients.
    pub(crate) norms: Vec<f64>,
    /// Whole weights by name.
    pub(crate) weights: BTreeMap<String, Tensor>,
}

/// Asks for the parallel sizes of a mesh.
pub(crate) fn lay_out(finetune: &mut Finetune, sizes: ParallelSizes) {
    let strategy = &mut finetune.trainer.strategy;
    strategy.tensor_model_parallel_size = sizes.tp;
    strategy.context_parallel_size = sizes.cp;
    strategy.pipeline_model_parallel_size = sizes.pp;
}

/// Trains in a layout; all ranks must report the same.
pub(crate) fn train(finetune: &Finetune, samples: &Samples, sizes: ParallelSizes, steps: u64) -> Trained {
    let mut finetune = finetune.clone();
    lay_out(&mut finetune, sizes);
    let finetune = &finetune;
    let mut ranks = on_mesh(sizes, |mesh| {
        let mut trainer = trainer(finetune, mesh.clone());
        let step = |step| {
            let batches = microbatches(finetune, samples, &mesh, step);
            let report = trainer.step(&batches, |peak| peak, step).unwrap();
            (report.loss, report.grad_norm)
        };
        let (losses, norms) = (0..steps).map(step).unzip();
        Trained {
            losses,
            norms,
            weights: weights(&trainer),
        }
    });
    let mut first = ranks.remove(0);
    for other in ranks {
        assert_eq!(other.losses, first.losses, "ranks report different losses");
        assert_eq!(other.norms, first.norms, "ranks report different gradient norms");
        // Each stage of a pipeline has its own.
        for (name, weight) in other.weights {
            match first.weights.get(&name) {
                Some(known) => assert!(known.equal(&weight), "ranks hold different `{name}`"),
                None => drop(first.weights.insert(name, weight)),
            }
        }
    }
    first
}

/// Whole weights of a trainer, by name.
pub(crate) fn weights(trainer: &Trainer) -> BTreeMap<String, Tensor> {
    let whole = |parameter: &Parameter| {
        (
            parameter.spec.name.clone(),
            whole(parameter, &parameter.tensor.detach(), trainer.mesh()),
        )
    };
    trainer.parameters().iter().map(whole).collect()
}

/// Whole gradients by name, each value from the rank that updates it; those that no rank touched are left out.
pub(crate) fn gradients(trainer: &Trainer) -> BTreeMap<String, Tensor> {
    let mut pieces = trainer.optimizer().pieces().peekable();
    let whole = |(parameter, gradient): (&Parameter, Option<&Tensor>)| {
        let name = &parameter.spec.name;
        let piece = pieces.next_if(|piece| piece.spec.name == *name);
        let gradient = gradient?;
        let local = gradient.zeros_like();
        if let Some(piece) = piece {
            let own = |tensor: &Tensor| tensor.view([-1]).narrow(0, piece.range.start as i64, piece.range.len() as i64);
            own(&local).copy_(&own(gradient));
        }
        if trainer.optimizer().is_distributed() {
            trainer.mesh().replicas().all_reduce(&local, Reduce::Sum).unwrap();
        }
        Some((name.clone(), whole(parameter, &local, trainer.mesh())))
    };
    trainer.gradients().filter_map(whole).collect()
}

/// The whole of a tensor of which the tensor-parallel ranks hold parts.
pub(crate) fn whole(parameter: &Parameter, local: &Tensor, mesh: &Mesh) -> Tensor {
    let group = mesh.axis(Axis::Tensor);
    let Some(shard) = parameter.spec.shard(group.rank(), group.size()) else {
        return local.copy();
    };
    let parts = group.all_gather(&local.contiguous()).unwrap();
    let parts: Vec<_> = parts.into_iter().step_by(parameter.spec.copies(group.size())).collect();
    Tensor::cat(&parts, shard.dim as i64).narrow(shard.dim as i64, 0, parameter.spec.shape[shard.dim] as i64)
}

/// Asserts that each value is within `tolerance` of the expected one, relative to it.
#[track_caller]
pub(crate) fn close(what: &str, got: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(got.len(), expected.len(), "{what}");
    for (index, (got, expected)) in got.iter().zip(expected).enumerate() {
        let off = (got - expected).abs() / expected.abs().max(1e-9);
        assert!(
            off <= tolerance,
            "{what}: value {index} is {got:e}, expected {expected:e}: off by {off:e}"
        );
    }
}

/// Greatest difference of two tensors, relative to the greatest value of the second.
pub(crate) fn difference(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.size(), b.size());
    if a.numel() == 0 {
        return 0.0;
    }
    let (a, b) = (a.detach().to_kind(Kind::Double), b.detach().to_kind(Kind::Double));
    ((&a - &b).abs().max() / b.abs().max().clamp_min(1e-30)).double_value(&[])
}

/// Asserts that two sets of tensors have the same names and, nearly, the same values.
#[track_caller]
pub(crate) fn close_tensors(what: &str, got: &BTreeMap<String, Tensor>, expected: &BTreeMap<String, Tensor>, tolerance: f64) {
    assert_eq!(got.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "{what}");
    for (name, expected) in expected {
        // Softmax does not see a key's bias: Adam turns its rounding noise into steps of the learning rate.
        if name.contains("vision_tower") && name.ends_with("k_proj.bias") {
            continue;
        }
        let off = difference(&got[name], expected);
        assert!(off <= tolerance, "{what}: `{name}` is off by {off:e}");
    }
}

/// The plan of a run on one rank.
pub(crate) fn plan(finetune: &Finetune, run_dir: &Path) -> LaunchPlan {
    LaunchPlan {
        format: PLAN_FORMAT,
        version: "test".into(),
        name: finetune.log.name.clone(),
        run_dir: run_dir.to_owned(),
        num_nodes: finetune.trainer.num_nodes,
        ranks_per_node: finetune.trainer.devices,
        env: BTreeMap::new(),
        run: Run::of(finetune.clone()),
    }
}

/// A whole run, as `neva-rank train` does it.
pub(crate) fn run(finetune: &Finetune, run_dir: &Path) -> Result<RunReport, RankFailure> {
    neva_engine::engine().train(&plan(finetune, run_dir), &RankEnv::single())
}

thread_local! {
    /// The request to stop that the rank of this thread listens to.
    pub(crate) static STOP: RefCell<StopRequest> = RefCell::default();
}

/// A whole run on a mesh of threads, with callbacks of the test's own; each rank's outcome.
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
        let surroundings = Surroundings {
            run_dir,
            mesh,
            device: Device::Cpu,
            cache: &cache,
            registry,
            stop: &stop,
            environment: |_| None,
        };
        fit(&plan, surroundings, &Progress::default())
    })
}

/// A run's losses, bit by bit.
pub(crate) fn bits(losses: &[f64]) -> Vec<u64> {
    losses.iter().map(|loss| loss.to_bits()).collect()
}

/// The lines of a file of JSON; none where there is no file.
pub(crate) fn json_lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The training steps that a run's metrics have a line for.
pub(crate) fn logged_steps(run_dir: &Path) -> Vec<u64> {
    let lines = json_lines(&run_dir.join(METRICS_FILE));
    let steps = lines.iter().filter(|line| line.get("reduced_train_loss").is_some());
    steps.map(|line| line["step"].as_u64().unwrap()).collect()
}

/// The lines of a run's validations.
pub(crate) fn validations(run_dir: &Path) -> Vec<Value> {
    let lines = json_lines(&run_dir.join(METRICS_FILE));
    lines.into_iter().filter(|line| line.get("val_loss").is_some()).collect()
}

/// Every file under a folder, with its bytes.
pub(crate) fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.insert(path.strip_prefix(folder).unwrap().to_owned(), std::fs::read(&path).unwrap());
            }
        }
    }
    found
}

/// Names in a folder, sorted.
pub(crate) fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Copies a folder of files.
pub(crate) fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for (name, bytes) in files(from) {
        std::fs::write(to.join(name), bytes).unwrap();
    }
}

/// Saves a trainer after `steps` steps of 8 samples.
pub(crate) fn saved(
    parent: &Path,
    trainer: &Trainer,
    finetune: &Finetune,
    steps: u64,
    artifacts: &Artifacts,
    keep: i64,
) -> neva_engine::Result<PathBuf> {
    with_snapshot(trainer, finetune, steps, artifacts, keep, |snapshot| {
        save(parent, snapshot, trainer.mesh())
    })
}

/// The same, while the caller goes on.
pub(crate) fn saved_later(parent: &Path, trainer: &Trainer, finetune: &Finetune, steps: u64, memory: &HostMemory) -> Saving {
    with_snapshot(trainer, finetune, steps, &Vec::new(), 10, |snapshot| {
        Saving::start(parent, snapshot, Some(memory), trainer.mesh()).unwrap()
    })
}

fn with_snapshot<T>(
    trainer: &Trainer,
    finetune: &Finetune,
    steps: u64,
    artifacts: &Artifacts,
    keep: i64,
    then: impl FnOnce(&Snapshot<'_>) -> T,
) -> T {
    let mut run = Run::of(finetune.clone());
    run.finetune.log.ckpt.save_top_k = keep;
    let progress = RunProgress {
        steps_done: steps,
        consumed_samples: 8 * steps,
        total_steps: 6,
        metrics: [("reduced_train_loss".to_owned(), 1.5)].into(),
        ..RunProgress::default()
    };
    then(&Snapshot {
        run: &run,
        progress: &progress,
        base: &BaseReference::Seed { seed: 1234 },
        parameters: trainer.parameters(),
        optimizer: trainer.optimizer(),
        artifacts,
    })
}

/// Makes a checkpoint that a test has changed whole again.
pub(crate) fn reseal(checkpoint: &Path) {
    let mut state = CheckpointFolder::open(checkpoint).unwrap().state;
    for (name, sum) in &mut state.files {
        *sum = Checksum::of(&checkpoint.join(name)).unwrap();
    }
    let state = serde_json::to_vec(&state).unwrap();
    std::fs::write(checkpoint.join("checkpoint.json"), &state).unwrap();
    std::fs::write(
        checkpoint.join(SEAL),
        Checksum::of(&checkpoint.join("checkpoint.json")).unwrap().blake3,
    )
    .unwrap();
}

/// Changes the tensors of a file.
pub(crate) fn rewrite(path: &Path, change: impl FnOnce(&mut Vec<(String, Tensor)>)) {
    let file = TensorFile::open(path).unwrap();
    let names = file.tensors().into_keys();
    let mut tensors: Vec<_> = names.map(|name| (name.clone(), file.read(&name, None).unwrap())).collect();
    change(&mut tensors);
    write_tensors(path, tensors).unwrap();
}
