//! Case folders, and batches from their tensors.

use neva_engine::attention::Segments;
use neva_engine::batch::Batch;
use neva_engine::checkpoint::{Base, ModelCache, Sources, TensorFile};
use neva_engine::comm::{Axis, Mesh, run_ranks};
use neva_engine::model::Models;
use neva_engine::trainer::{LoadedModel, Microbatch, Trainer};
use neva_layout::from_hf_config;
use neva_recipes::neva_tiny;
use neva_schemas::{Accelerator, Finetune, LlavaModel, Model, ParallelSizes, RestoreConfig};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tch::{Device, Kind, Tensor};

/// Returns the fixture folders: the project's, and the one that `NEVA_GOLDEN_DIR` names.
#[expect(clippy::disallowed_methods, reason = "a test's own switch")]
pub(crate) fn roots() -> Vec<PathBuf> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/hf");
    let more = std::env::var("NEVA_GOLDEN_DIR").ok().map(PathBuf::from);
    std::iter::once(own).chain(more).collect()
}

/// Returns the folders directly in any of the roots that hold `file`, sorted.
pub(crate) fn folders_with(file: &str) -> Vec<PathBuf> {
    let mut folders = Vec::new();
    for root in roots() {
        let entries = std::fs::read_dir(&root).unwrap_or_else(|error| panic!("{}: {error}", root.display()));
        let mut found: Vec<_> = entries
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.join(file).is_file())
            .collect();
        found.sort();
        folders.extend(found);
    }
    assert!(!folders.is_empty(), "no case folder holds {file}");
    folders
}

pub(crate) fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))).unwrap()
}

pub(crate) fn name(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

/// Cases whose models this program refuses, by name: their families are not built yet. Any other case that is refused
/// fails its test, and so does one of these that is not.
const REFUSED: &[&str] = &[];

/// Returns the model of a case, or `None` if it is one of [`REFUSED`].
pub(crate) fn model(folder: &Path) -> Option<LlavaModel> {
    let case = name(folder);
    match from_hf_config(&json(&folder.join("config.json"))) {
        Ok(_) if REFUSED.contains(&&*case) => panic!("{case} is no longer refused: take it off the list of refused cases"),
        Err(error) if REFUSED.contains(&&*case) => {
            println!("{case}: refused: {error}");
            None
        }
        Ok(model) => Some(model),
        Err(error) => panic!("{}: refused: {error}", folder.display()),
    }
}

/// Runs `check` on each case folder that holds `file`, with its model, or that of its base if it has one.
pub(crate) fn each_case(file: &str, check: impl Fn(&Path, &LlavaModel)) {
    let mut ran = 0;
    for folder in folders_with(file) {
        if let Some(model) = model(&base(&folder)) {
            check(&folder, &model);
            println!("{}: ok", name(&folder));
            ran += 1;
        }
    }
    assert!(ran > 0, "no case ran");
}

/// Returns the folder of a case's weights.
pub(crate) fn base(folder: &Path) -> PathBuf {
    match folder.join("trace.json") {
        trace if trace.is_file() => folder.with_file_name(json(&trace)["base"].as_str().unwrap()),
        _ => folder.to_owned(),
    }
}

/// Returns a run that trains the whole model of `folder` in fp32.
pub(crate) fn finetune(folder: &Path, model: LlavaModel) -> Finetune {
    let mut finetune = neva_tiny::finetune_recipe(neva_tiny::default_args());
    finetune.model = Model::Llava(model);
    finetune.resume.restore_config = Some(RestoreConfig::weights(folder.display().to_string()));
    finetune.trainer.accelerator = Accelerator::Cpu;
    // Whole gradients are compared.
    finetune.trainer.strategy.ddp.use_distributed_optimizer = false;
    finetune
}

/// Calls `load` with the weights of a run's base.
pub(crate) fn sources<T>(finetune: &Finetune, load: impl FnOnce(Sources<'_>) -> T) -> T {
    let cache = ModelCache::at(PathBuf::new());
    let base = Base::of(finetune, &cache).unwrap();
    load(Sources {
        checkpoint: None,
        adapter: None,
        base: &base,
        cache: &cache,
    })
}

/// Creates a trainer on one rank of a mesh.
pub(crate) fn trainer(finetune: &Finetune, mesh: Mesh) -> Trainer {
    let loaded = sources(finetune, |sources| {
        LoadedModel::load(finetune, &Models::builtin(), sources, &mesh, Device::Cpu).unwrap()
    });
    Trainer::new(finetune, loaded, mesh).unwrap()
}

/// Runs `body` on every rank of a mesh of threads.
pub(crate) fn on_mesh<T: Send>(sizes: ParallelSizes, body: impl Fn(Mesh) -> T + Sync) -> Vec<T> {
    tch::set_num_threads(1);
    run_ranks(sizes.world() as usize, Duration::from_secs(120), |factory| {
        body(Mesh::new(sizes, &factory).unwrap())
    })
}

/// A batch in Hugging Face's form: placeholders already repeated, labels not shifted.
#[derive(Debug)]
pub(crate) struct HfBatch {
    pub(crate) input_ids: Tensor,
    pub(crate) labels: Tensor,
    pub(crate) attention_mask: Tensor,
    pub(crate) pixels: Option<Tensor>,
}

impl Clone for HfBatch {
    fn clone(&self) -> Self {
        Self {
            input_ids: self.input_ids.shallow_clone(),
            labels: self.labels.shallow_clone(),
            attention_mask: self.attention_mask.shallow_clone(),
            pixels: self.pixels.as_ref().map(Tensor::shallow_clone),
        }
    }
}

impl HfBatch {
    /// Reads `prefix + input_ids` and so on; there may be no pixels.
    pub(crate) fn read(file: &TensorFile, prefix: &str) -> Self {
        let read = |key: &str| file.read(&format!("{prefix}{key}"), None);
        Self {
            input_ids: read("input_ids").unwrap(),
            labels: read("labels").unwrap(),
            attention_mask: read("attention_mask").unwrap(),
            pixels: read("pixel_values").ok(),
        }
    }

    pub(crate) fn rows(&self) -> i64 {
        self.input_ids.size()[0]
    }

    /// Returns the rows `start..start + len` with their images. `image_token` marks the images of each row.
    pub(crate) fn narrow(&self, start: i64, len: i64, model: &LlavaModel) -> Self {
        let images = |rows: &Tensor| rows.eq(model.image_token_index).sum(Kind::Int64).int64_value(&[]) / model.image_seq_length() as i64;
        let (before, within) = (
            images(&self.input_ids.narrow(0, 0, start)),
            images(&self.input_ids.narrow(0, start, len)),
        );
        Self {
            input_ids: self.input_ids.narrow(0, start, len),
            labels: self.labels.narrow(0, start, len),
            attention_mask: self.attention_mask.narrow(0, start, len),
            pixels: self
                .pixels
                .as_ref()
                .filter(|_| within > 0)
                .map(|pixels| pixels.narrow(0, before, within)),
        }
    }

    /// Returns the batch with rows padded to a multiple of `multiple`. The padding has no labels.
    pub(crate) fn padded(&self, multiple: i64) -> Self {
        let s = self.input_ids.size()[1];
        let pad = |tensor: &Tensor, value: f64| {
            tensor.f_constant_pad_nd([0, (multiple - s % multiple) % multiple]).map(|padded| {
                let behind = Tensor::arange(padded.size()[1], (Kind::Int64, Device::Cpu)).ge(s);
                padded.masked_fill(&behind, value)
            })
        };
        Self {
            input_ids: pad(&self.input_ids, 0.0).unwrap(),
            labels: pad(&self.labels, -100.0).unwrap(),
            attention_mask: pad(&self.attention_mask, 0.0).unwrap(),
            pixels: self.pixels.as_ref().map(Tensor::shallow_clone),
        }
    }

    /// Converts the batch to the engine's form.
    pub(crate) fn microbatch(&self, model: &LlavaModel) -> Microbatch {
        let [b, s] = <[i64; 2]>::try_from(self.input_ids.size()).unwrap();
        let image = self.input_ids.eq(model.image_token_index);
        let input_ids_bs = self.input_ids.masked_fill(&image, -200);
        let shifted = self.labels.narrow(1, 1, s - 1);
        let labels_bs = Tensor::cat(&[shifted, Tensor::full([b, 1], -100, (Kind::Int64, Device::Cpu))], 1);
        let lengths: Vec<i64> = self
            .attention_mask
            .sum_dim_intlist([1].as_slice(), false, Kind::Int64)
            .try_into()
            .unwrap();
        let lengths: Vec<_> = lengths.iter().map(|length| *length as usize).collect();
        let tokens = lengths.iter().sum::<usize>() as u64;
        let batch = Batch {
            input_ids_bs: input_ids_bs.contiguous(),
            labels_bs: labels_bs.contiguous(),
            segments: Segments::rows(&lengths),
            pixels: self.pixels.as_ref().map(Tensor::contiguous),
            image_positions: image.flatten(0, -1).nonzero().flatten(0, -1),
            feature_rows: None,
        };
        Microbatch::of(batch, tokens)
    }
}

/// Gathers the whole tensor from the shards of the tensor-parallel ranks.
pub(crate) fn whole(parameter: &neva_engine::parameters::Parameter, local: &Tensor, mesh: &Mesh) -> Tensor {
    let group = mesh.axis(Axis::Tensor);
    let Some(shard) = parameter.spec.shard(group.rank(), group.size()) else {
        return local.copy();
    };
    let parts = group.all_gather(&local.contiguous()).unwrap();
    // Key heads are copied if there are more ranks than heads.
    let parts: Vec<_> = parts.into_iter().step_by(parameter.spec.copies(group.size())).collect();
    Tensor::cat(&parts, shard.dim as i64).narrow(shard.dim as i64, 0, parameter.spec.shape[shard.dim] as i64)
}

/// `|a - b| <= tolerance * max(|b|, floor)`, with the numbers in the message.
#[track_caller]
pub(crate) fn close(what: &str, a: f64, b: f64, tolerance: f64, floor: f64) {
    let difference = (a - b).abs();
    assert!(
        difference <= tolerance * b.abs().max(floor),
        "{what}: {a:e}, expected {b:e}, difference {difference:e}"
    );
}

/// Returns the largest difference of two tensors, relative to the largest value of the second.
pub(crate) fn difference(a: &Tensor, b: &Tensor) -> f64 {
    let a = a.detach().to_kind(Kind::Double);
    let b = b.detach().to_kind(Kind::Double);
    assert_eq!(a.size(), b.size());
    if a.numel() == 0 {
        return 0.0;
    }
    ((&a - &b).abs().max() / b.abs().max().clamp_min(1e-30)).double_value(&[])
}
