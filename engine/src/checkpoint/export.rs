//! Exports a checkpoint as a Hugging Face folder: whole tensors under the hub's names, adapters merged. At most one
//! file's tensors are in memory at a time.

use super::base::Base;
use super::folder::CheckpointFolder;
use super::json::{json, read_json};
use super::placement::Placement;
use super::safetensors_writer::write_torch_tensors;
use super::weights::{Sources, load_parameters};
use crate::error::{EngineError, Result};
use crate::precision::compute_kind;
use neva_data::{ImageProcessor, ModelProcessor};
use neva_layout::{Adapters, Families, ModelCache, ModelTable, ParamSpec, lora_adapters};
use neva_schemas::{Peft, Precision};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use tch::{Device, Kind, Tensor};

/// Most bytes of tensors in one file, as transformers' `max_shard_size`. A larger tensor has its own file.
pub const SHARD_BYTES: usize = 5_000_000_000;

/// Tokenizer and image processor of the run's data. They replace those in the base's folder.
const ARTIFACTS: &[&str] = &[
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    PROCESSOR,
];

/// The file of an image processor.
const PROCESSOR: &str = "preprocessor_config.json";

/// Writes the model of `checkpoint`, which was trained on `base`, to the new folder `out`: in the data type of its run, in
/// files of at most `shard_bytes`.
///
/// # Errors
/// `out` exists or cannot be written, a file cannot be read, or the base is of another model. No file is left behind.
pub fn export_hugging_face(
    checkpoint: &CheckpointFolder,
    families: &Families,
    base: &Base,
    cache: &ModelCache,
    out: &Path,
    shard_bytes: usize,
) -> Result<()> {
    let table = families.resolve(&checkpoint.run.finetune.model, "finetune.model");
    let table = table.map_err(|problem| EngineError::Run(vec![problem]))?;
    if out.exists() {
        return Err(EngineError::Io {
            action: "export to",
            path: out.to_owned(),
            source: std::io::ErrorKind::AlreadyExists.into(),
        });
    }
    let mut name = out.file_name().unwrap_or_default().to_owned();
    name.push(".writing");
    let staging = out.with_file_name(name);
    let export = || {
        // Remains of an interrupted export.
        if staging.exists() {
            std::fs::remove_dir_all(&staging).map_err(EngineError::io("remove", &staging))?;
        }
        std::fs::create_dir_all(&staging).map_err(EngineError::io("create", &staging))?;
        write_files(checkpoint, &table, base, cache, &staging)?;
        write_weights(checkpoint, &table, base, cache, &staging, shard_bytes)?;
        std::fs::rename(&staging, out).map_err(EngineError::io("write", out))
    };
    export().inspect_err(|_| {
        // Frees the disk; the first error is the one to report.
        let _ = std::fs::remove_dir_all(&staging);
    })
}

/// Returns the data type of a run, and transformers' name of it.
fn kind(checkpoint: &CheckpointFolder) -> (Kind, &'static str) {
    let precision = checkpoint.run.finetune.trainer.precision();
    let name = match precision {
        Precision::Fp32 => "float32",
        Precision::Bf16Mixed => "bfloat16",
    };
    (compute_kind(precision), name)
}

/// Writes all files except the weights.
fn write_files(checkpoint: &CheckpointFolder, table: &ModelTable, base: &Base, cache: &ModelCache, out: &Path) -> Result<()> {
    let mut config = table.write_config();
    let root = root(base.clone(), cache)?;
    if let Some(folder) = tokenizer_folder(&root) {
        let entries = std::fs::read_dir(folder).map_err(EngineError::io("read", folder))?;
        for path in entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| is_artifact(path))
        {
            copy(&path, out)?;
        }
    }
    match &root {
        Base::HuggingFace(folder) => config = read_json(&folder.join("config.json"))?,
        Base::Parts(parts) => {
            // The tokenizer of a CLIP is not the model's.
            let folder = parts.vision_model.as_ref().and_then(Base::folder);
            match folder.and_then(ImageProcessor::file_in) {
                Some(file) if file.ends_with(PROCESSOR) => copy(&file, out)?,
                Some(nested) => {
                    let (name, content) = ModelProcessor::open(&nested)?.file();
                    let path = out.join(name);
                    std::fs::write(&path, content).map_err(EngineError::io("write", &path))?;
                }
                None => {}
            }
        }
        Base::Seed(_) | Base::Checkpoint(_) => {}
    }
    for artifact in ARTIFACTS
        .iter()
        .map(|name| checkpoint.path.join(name))
        .filter(|path| path.is_file())
    {
        copy(&artifact, out)?;
    }
    if checkpoint.path.join(PROCESSOR).is_file() {
        nest_processor(out)?;
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

/// Writes the image processor of the run into the base model's `processor_config.json`, which transformers reads first.
fn nest_processor(out: &Path) -> Result<()> {
    let path = out.join("processor_config.json");
    if !path.is_file() {
        return Ok(());
    }
    let mut content: Value = read_json(&path)?;
    let Some(nested) = content.get_mut("image_processor").filter(|nested| nested.is_object()) else {
        return Ok(());
    };
    *nested = read_json(&out.join(PROCESSOR))?;
    write_json(&path, &content)
}

/// Follows checkpoints to the base that the first of them was trained on.
fn root(base: Base, cache: &ModelCache) -> Result<Base> {
    match base {
        Base::Checkpoint(path) => root(Base::of(&CheckpointFolder::open(&path)?.run.finetune, cache)?, cache),
        base => Ok(base),
    }
}

/// Returns the Hugging Face folder that has the tokenizer.
fn tokenizer_folder(base: &Base) -> Option<&Path> {
    match base {
        Base::HuggingFace(folder) => Some(folder),
        Base::Parts(parts) => tokenizer_folder(parts.language_model.as_ref().unwrap_or(&parts.rest)),
        Base::Seed(_) | Base::Checkpoint(_) => None,
    }
}

/// Returns true if a file of a model's folder belongs to its tokenizer or image processor.
fn is_artifact(path: &Path) -> bool {
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

fn write_weights(
    checkpoint: &CheckpointFolder,
    table: &ModelTable,
    base: &Base,
    cache: &ModelCache,
    out: &Path,
    shard_bytes: usize,
) -> Result<()> {
    let finetune = &checkpoint.run.finetune;
    let plain = table.parameters(finetune.trainer.strategy.vision_placement);
    let lora = finetune.peft.as_ref().map(Peft::lora);
    let adapters = match lora {
        Some(lora) => lora_adapters(&plain, lora, "finetune.peft").map_err(EngineError::Run)?,
        None => Adapters::default(),
    };
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
        let adapter = |spec: &ParamSpec| adapters.linears.get(&spec.lora.as_ref()?.linear);
        let wanted = |spec: &ParamSpec| {
            shard.iter().any(|own| own.name == spec.name)
                || shard
                    .iter()
                    .filter_map(adapter)
                    .any(|adapter| [&adapter.a, &adapter.b].contains(&&spec.name))
        };
        let parameters = load_parameters(table, &specs, &wanted, finetune, sources, whole)?;
        let tensor = |spec: &ParamSpec| -> Result<(String, Tensor)> {
            let mut weight = parameters.get(&spec.name)?.tensor.detach();
            if let Some(adapter) = adapter(spec) {
                let (a, b) = (&parameters.get(&adapter.a)?.tensor, &parameters.get(&adapter.b)?.tensor);
                weight = weight.f_add(&b.detach().f_matmul(&a.detach())?.f_mul_scalar(adapter.scale)?)?;
            }
            Ok((table.hub_name(&spec.name), weight.to_kind(kind)))
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

/// Splits parameters into consecutive shards of at most `max_bytes` each.
fn shards(specs: &[ParamSpec], size: usize, max_bytes: usize) -> Vec<Vec<ParamSpec>> {
    let mut shards: Vec<Vec<ParamSpec>> = Vec::new();
    let mut filled = 0;
    for spec in specs {
        let bytes = spec.numel() * size;
        match shards.last_mut() {
            Some(shard) if filled + bytes <= max_bytes => shard.push(spec.clone()),
            _ => {
                filled = 0;
                shards.push(vec![spec.clone()]);
            }
        }
        filled += bytes;
    }
    shards
}
