//! A checkpoint as a folder of Hugging Face's: whole tensors under the hub's names, adapters merged. At most one file's
//! tensors are in memory at a time.

use super::aside::json;
use super::base::Base;
use super::cache::ModelCache;
use super::folder::{CheckpointFolder, read_json};
use super::safetensors_file::write_torch_tensors;
use super::weights::{Placement, Sources, load_parameters};
use crate::error::{EngineError, Result};
use crate::precision::compute_kind;
use neva_layout::{Adapters, ParamSpec, hub_name, llava_parameters, lora_adapters, to_hf_config};
use neva_schemas::{Peft, Precision};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tch::{Device, Kind, Tensor};

/// Bytes of tensors that one file holds at most, as transformers' `max_shard_size`; a larger tensor has its own.
pub const SHARD_BYTES: usize = 5_000_000_000;

/// What a run's own data went through: it goes before what lies in the folder of the base.
const ARTIFACTS: &[&str] = &["tokenizer.json", "tokenizer_config.json", "preprocessor_config.json"];

/// Writes the model of `checkpoint`, which was trained on `base`, to the new folder `out`: in the kind that its run
/// computed in, in files of at most `shard_bytes`.
///
/// # Errors
/// `out` is there already or cannot be written, a file cannot be read, or the base is of another model. Nothing is left
/// behind.
pub fn export_hugging_face(checkpoint: &CheckpointFolder, base: &Base, cache: &ModelCache, out: &Path, shard_bytes: usize) -> Result<()> {
    if out.exists() {
        return Err(EngineError::Io {
            action: "export to",
            path: out.to_owned(),
            source: std::io::ErrorKind::AlreadyExists.into(),
        });
    }
    let mut name = out.file_name().unwrap_or_default().to_owned();
    name.push(".writing");
    let aside = out.with_file_name(name);
    let export = || {
        // What an interrupted export left.
        if aside.exists() {
            std::fs::remove_dir_all(&aside).map_err(EngineError::io("remove", &aside))?;
        }
        std::fs::create_dir_all(&aside).map_err(EngineError::io("create", &aside))?;
        write_files(checkpoint, base, cache, &aside)?;
        write_weights(checkpoint, base, cache, &aside, shard_bytes)?;
        std::fs::rename(&aside, out).map_err(EngineError::io("write", out))
    };
    export().inspect_err(|_| {
        // Frees the disk; the first error is the one to report.
        let _ = std::fs::remove_dir_all(&aside);
    })
}

/// The kind that a run computes in, and transformers' name of it.
fn kind(checkpoint: &CheckpointFolder) -> (Kind, &'static str) {
    let precision = checkpoint.run.finetune.trainer.precision();
    let name = match precision {
        Precision::Fp32 => "float32",
        Precision::Bf16Mixed => "bfloat16",
    };
    (compute_kind(precision), name)
}

/// Everything but the weights.
fn write_files(checkpoint: &CheckpointFolder, base: &Base, cache: &ModelCache, out: &Path) -> Result<()> {
    let model = checkpoint.run.finetune.model.llava();
    let mut config = to_hf_config(model);
    if let Some(folder) = hugging_face_root(base.clone(), cache)? {
        let entries = std::fs::read_dir(&folder).map_err(EngineError::io("read", &folder))?;
        for path in entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| goes_along(path)) {
            copy(&path, out)?;
        }
        config = read_json(&folder.join("config.json"))?;
    }
    for artifact in ARTIFACTS
        .iter()
        .map(|name| checkpoint.path.join(name))
        .filter(|path| path.is_file())
    {
        copy(&artifact, out)?;
    }
    if let Some(config) = config.as_object_mut() {
        // transformers 5.x calls `torch_dtype` `dtype`.
        let name = if config.contains_key("torch_dtype") {
            "torch_dtype"
        } else {
            "dtype"
        };
        config.insert(name.into(), kind(checkpoint).1.into());
    }
    write_json(&out.join("config.json"), &config)
}

/// The folder of Hugging Face's that a base goes back to, where it does.
fn hugging_face_root(base: Base, cache: &ModelCache) -> Result<Option<PathBuf>> {
    match base {
        Base::HuggingFace(path) => Ok(Some(path)),
        Base::Seed(_) => Ok(None),
        Base::Checkpoint(path) => hugging_face_root(Base::of(&CheckpointFolder::open(&path)?.run.finetune, cache)?, cache),
    }
}

/// Whether a file of a model's folder belongs to its words and pictures.
fn goes_along(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let ends = [".json", ".jinja", ".model", ".txt"].iter().any(|end| name.ends_with(end));
    path.is_file() && ends && name != "config.json" && !name.ends_with(".index.json")
}

fn copy(from: &Path, folder: &Path) -> Result<()> {
    let to = folder.join(from.file_name().unwrap_or_default());
    let bytes = std::fs::read(from).map_err(EngineError::io("read", from))?;
    std::fs::write(&to, bytes).map_err(EngineError::io("write", &to))
}

fn write_json(path: &Path, value: &Value) -> Result<()> {
    std::fs::write(path, json(value)?).map_err(EngineError::io("write", path))
}

fn write_weights(checkpoint: &CheckpointFolder, base: &Base, cache: &ModelCache, out: &Path, shard_bytes: usize) -> Result<()> {
    let finetune = &checkpoint.run.finetune;
    let model = finetune.model.llava();
    let plain = llava_parameters(model, finetune.trainer.strategy.vision_placement);
    let lora = finetune.peft.as_ref().map(Peft::lora);
    let adapters = match lora {
        Some(lora) => lora_adapters(model, &plain, lora, "finetune.peft").map_err(EngineError::Run)?,
        None => Adapters::default(),
    };
    let scale = lora.map_or(1.0, |lora| lora.alpha / lora.dim as f64);
    let specs: Vec<_> = plain.iter().chain(&adapters.parameters).cloned().collect();
    let sources = Sources {
        checkpoint: Some(checkpoint),
        adapter: None,
        base,
        cache,
    };
    // Merging in fp32 rounds once.
    let whole = Placement {
        tp_rank: 0,
        tp: 1,
        kind: Kind::Float,
        device: Device::Cpu,
    };
    let (kind, _) = kind(checkpoint);
    let shards = shards(&plain, kind.elt_size_in_bytes(), shard_bytes);
    let mut map = BTreeMap::new();
    for (number, shard) in (1..).zip(&shards) {
        let adapter = |spec: &ParamSpec| adapters.linears.get(spec.name.strip_suffix(".weight")?);
        let wanted = |spec: &ParamSpec| {
            shard.iter().any(|own| own.name == spec.name)
                || shard
                    .iter()
                    .filter_map(adapter)
                    .any(|adapter| [&adapter.a, &adapter.b].contains(&&spec.name))
        };
        let parameters = load_parameters(&specs, &wanted, finetune, sources, whole)?;
        let tensor = |spec: &ParamSpec| -> Result<(String, Tensor)> {
            let mut weight = parameters.get(&spec.name)?.tensor.detach();
            if let Some(adapter) = adapter(spec) {
                let (a, b) = (&parameters.get(&adapter.a)?.tensor, &parameters.get(&adapter.b)?.tensor);
                weight = weight.f_add(&b.detach().f_matmul(&a.detach())?.f_mul_scalar(scale)?)?;
            }
            Ok((hub_name(&spec.name), weight.to_kind(kind)))
        };
        let tensors = shard.iter().map(tensor).collect::<Result<Vec<_>>>()?;
        let file = match shards.len() {
            1 => "model.safetensors".to_owned(),
            several => format!("model-{number:05}-of-{several:05}.safetensors"),
        };
        map.extend(tensors.iter().map(|(name, _)| (name.clone(), file.clone())));
        write_torch_tensors(&out.join(&file), tensors)?;
    }
    if shards.len() == 1 {
        return Ok(());
    }
    let total: usize = plain.iter().map(|spec| spec.numel() * kind.elt_size_in_bytes()).sum();
    let index = json!({ "metadata": { "total_size": total }, "weight_map": map });
    write_json(&out.join("model.safetensors.index.json"), &index)
}

/// Runs of parameters of at most `most` bytes each.
fn shards(specs: &[ParamSpec], size: usize, most: usize) -> Vec<Vec<ParamSpec>> {
    let mut shards: Vec<Vec<ParamSpec>> = Vec::new();
    let mut filled = 0;
    for spec in specs {
        let bytes = spec.numel() * size;
        match shards.last_mut() {
            Some(shard) if filled + bytes <= most => shard.push(spec.clone()),
            _ => {
                filled = 0;
                shards.push(vec![spec.clone()]);
            }
        }
        filled += bytes;
    }
    shards
}
