//! From files, or from a seed, to this rank's parameters.

use super::cache::{ModelCache, resolve_restore};
use super::folder::{CheckpointFolder, read_json};
use super::safetensors_file::TensorFile;
use crate::error::{EngineError, Result};
use crate::parameters::{Parameter, Parameters};
use crate::random::fresh;
use neva_layout::{ParamSpec, Part, canonical_name, from_hf_config, ignorable, is_trainable};
use neva_schemas::{Finetune, LlavaModel, Problem};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tch::{Device, Kind, Tensor};

/// Where parameters come from that no checkpoint overrides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Base {
    /// A Hugging Face folder.
    HuggingFace(PathBuf),
    /// A checkpoint of ours: weights only.
    Checkpoint(PathBuf),
    /// Fresh values.
    Seed(u64),
}

impl Base {
    /// The base that a run names.
    ///
    /// # Errors
    /// The run names a folder that is not there.
    pub fn of(finetune: &Finetune, cache: &ModelCache) -> Result<Self> {
        match &finetune.resume.restore_config {
            None => Ok(Self::Seed(finetune.trainer.seed)),
            Some(restore) => {
                let path = resolve_restore(&restore.path, cache)?;
                Ok(if CheckpointFolder::is_one(&path) {
                    Self::Checkpoint(path)
                } else {
                    Self::HuggingFace(path)
                })
            }
        }
    }
}

/// How parameters are placed on this rank.
#[derive(Debug, Clone, Copy)]
pub struct Placement {
    /// Number of this rank on the tensor axis.
    pub tp_rank: usize,
    /// Number of ranks on the tensor axis.
    pub tp: usize,
    /// Kind that the model computes in.
    pub kind: Kind,
    /// Where the tensors lie.
    pub device: Device,
}

/// Parameters of a run as one rank holds them: the base's values, with a checkpoint's over them.
///
/// # Errors
/// A file is missing, not whole, or does not fit the model: then every tensor that is missing, foreign or
/// misshapen is listed.
pub fn load_parameters(
    specs: &[ParamSpec],
    finetune: &Finetune,
    base: &Base,
    checkpoint: Option<&CheckpointFolder>,
    cache: &ModelCache,
    placement: Placement,
) -> Result<Parameters> {
    let trained: Vec<_> = specs.iter().filter(|spec| is_trainable(spec, finetune)).cloned().collect();
    let mut values = BTreeMap::new();
    if let Some(checkpoint) = checkpoint {
        values = read_ours(&checkpoint.model(), &trained, placement)?;
    }
    let rest: Vec<_> = specs.iter().filter(|spec| !values.contains_key(&spec.name)).cloned().collect();
    if !rest.is_empty() {
        values.append(&mut base_values(&rest, specs, finetune, base, cache, placement)?);
    }
    let mut parameters = Parameters::default();
    for spec in specs {
        let value = values
            .remove(&spec.name)
            .ok_or_else(|| EngineError::Bug(format!("no value for `{}`", spec.name)))?;
        parameters.insert(placement.place(spec, value, is_trainable(spec, finetune)));
    }
    Ok(parameters)
}

impl Placement {
    fn place(&self, spec: &ParamSpec, value: Tensor, trainable: bool) -> Parameter {
        let tensor = value.to_device(self.device).to_kind(self.kind).set_requires_grad(trainable);
        Parameter {
            spec: spec.clone(),
            tensor,
            trainable,
        }
    }

    /// Reads this rank's part of a tensor, with the padding that its cut asks for.
    fn read(&self, file: &TensorFile, name: &str, spec: &ParamSpec) -> Result<Tensor> {
        let shard = spec.shard(self.tp_rank, self.tp);
        let part = file.read(name, shard)?;
        let Some(shard) = shard.filter(|shard| shard.len < shard.padded) else {
            return Ok(part);
        };
        let mut padding = part.size();
        padding[shard.dim] = (shard.padded - shard.len) as i64;
        Ok(Tensor::cat(
            &[&part, &Tensor::zeros(&padding, (part.kind(), part.device()))],
            shard.dim as i64,
        ))
    }
}

type Values = BTreeMap<String, Tensor>;

/// Values of `wanted`, which are some of `specs`, from the base. Adapters are never in a base: they start fresh.
fn base_values(
    wanted: &[ParamSpec],
    specs: &[ParamSpec],
    finetune: &Finetune,
    base: &Base,
    cache: &ModelCache,
    placement: Placement,
) -> Result<Values> {
    let (adapters, model): (Vec<_>, Vec<_>) = wanted.iter().cloned().partition(|spec| spec.part == Part::Adapter);
    let whole_model: Vec<_> = specs.iter().filter(|spec| spec.part != Part::Adapter).cloned().collect();
    let fresh_values = |specs: &[ParamSpec], seed: u64| -> Values {
        specs
            .iter()
            .map(|spec| (spec.name.clone(), fresh(spec, seed, placement.tp_rank, placement.tp)))
            .collect()
    };
    let mut values = match base {
        Base::Seed(seed) => fresh_values(&model, *seed),
        Base::HuggingFace(folder) => {
            check_config(folder, finetune.model.llava())?;
            read_hugging_face(folder, &model, &whole_model, placement)?
        }
        Base::Checkpoint(path) => {
            let checkpoint = CheckpointFolder::open(path)?;
            // What that run did not train is made again from its own base.
            let own = &checkpoint.run.finetune;
            let trained: Vec<_> = whole_model.iter().filter(|spec| is_trainable(spec, own)).cloned().collect();
            let mut values = read_ours(&checkpoint.model(), &trained, placement)?;
            values.retain(|name, _| model.iter().any(|spec| spec.name == *name));
            let rest: Vec<_> = model.iter().filter(|spec| !values.contains_key(&spec.name)).cloned().collect();
            if !rest.is_empty() {
                values.append(&mut base_values(
                    &rest,
                    &whole_model,
                    own,
                    &Base::of(own, cache)?,
                    cache,
                    placement,
                )?);
            }
            values
        }
    };
    values.append(&mut fresh_values(&adapters, finetune.trainer.seed));
    Ok(values)
}

/// Reads `specs` out of a file of ours, which must hold exactly them.
fn read_ours(path: &Path, specs: &[ParamSpec], placement: Placement) -> Result<Values> {
    let file = TensorFile::open(path)?;
    let names = file
        .tensors()
        .into_iter()
        .map(|(name, shape)| (name.clone(), (0, name, shape)))
        .collect();
    read_all(path, &[file], &names, specs, specs, placement)
}

/// Reads `wanted` out of a Hugging Face folder, which must hold all of `specs`: one file or several behind an
/// index, any of the accepted spellings of names.
fn read_hugging_face(folder: &Path, wanted: &[ParamSpec], specs: &[ParamSpec], placement: Placement) -> Result<Values> {
    let files = hugging_face_files(folder)?
        .iter()
        .map(|path| TensorFile::open(path))
        .collect::<Result<Vec<_>>>()?;
    let mut names = BTreeMap::new();
    let mut problems = Vec::new();
    for (index, file) in files.iter().enumerate() {
        for (name, shape) in file.tensors() {
            if ignorable(&name) {
                continue;
            }
            match canonical_name(&name) {
                Some(canonical) if !names.contains_key(&canonical) => {
                    names.insert(canonical, (index, name, shape));
                }
                Some(canonical) => problems.push(format!("`{name}` is a second tensor for `{canonical}`")),
                None => problems.push(format!("`{name}` is no tensor of a LLaVA model")),
            }
        }
    }
    // A tied head is sometimes written all the same.
    if !specs.iter().any(|spec| spec.name == "lm_head.weight") {
        names.remove("lm_head.weight");
    }
    if problems.is_empty() {
        return read_all(folder, &files, &names, wanted, specs, placement);
    }
    problems.extend(misfits(&names, specs));
    Err(EngineError::Weights {
        path: folder.to_owned(),
        problems,
    })
}

/// Canonical name to (file, name in the file, shape).
type Names = BTreeMap<String, (usize, String, Vec<usize>)>;

fn read_all(
    path: &Path,
    files: &[TensorFile],
    names: &Names,
    wanted: &[ParamSpec],
    specs: &[ParamSpec],
    placement: Placement,
) -> Result<Values> {
    let problems = misfits(names, specs);
    if !problems.is_empty() {
        return Err(EngineError::Weights {
            path: path.to_owned(),
            problems,
        });
    }
    let read = |spec: &ParamSpec| {
        let (index, name, _) = &names[&spec.name];
        Ok((spec.name.clone(), placement.read(&files[*index], name, spec)?))
    };
    wanted.iter().map(read).collect()
}

/// Everything in which a file differs from the model.
fn misfits(names: &Names, specs: &[ParamSpec]) -> Vec<String> {
    let mut problems = Vec::new();
    for spec in specs {
        match names.get(&spec.name) {
            None => problems.push(format!("`{}` {:?} is missing", spec.name, spec.shape)),
            Some((_, name, shape)) if *shape != spec.shape => {
                problems.push(format!("`{name}` has shape {shape:?}, the model needs {:?}", spec.shape));
            }
            Some(_) => {}
        }
    }
    for (canonical, (_, name, shape)) in names {
        if !specs.iter().any(|spec| spec.name == *canonical) {
            problems.push(format!("`{name}` {shape:?} is not in the model"));
        }
    }
    problems
}

/// The safetensors files of a folder.
fn hugging_face_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let single = folder.join("model.safetensors");
    if single.is_file() {
        return Ok(vec![single]);
    }
    let index = folder.join("model.safetensors.index.json");
    if !index.is_file() {
        let reason = "holds neither model.safetensors nor model.safetensors.index.json".into();
        return Err(EngineError::Content {
            path: folder.to_owned(),
            reason,
        });
    }
    let content: Value = read_json(&index)?;
    let map = content
        .get("weight_map")
        .and_then(Value::as_object)
        .ok_or_else(|| EngineError::Content {
            path: index.clone(),
            reason: "has no `weight_map`".into(),
        })?;
    let mut files: Vec<_> = map
        .values()
        .filter_map(Value::as_str)
        .filter(|name| !name.contains(['/', '\\']))
        .map(|name| folder.join(name))
        .collect();
    files.sort();
    files.dedup();
    Ok(files)
}

/// A folder's `config.json` must describe the run's model; every difference is named, which says more than
/// a hundred misshapen tensors.
fn check_config(folder: &Path, model: &LlavaModel) -> Result<()> {
    let path = folder.join("config.json");
    let content: Value = read_json(&path)?;
    let found = from_hf_config(&content).map_err(|error| EngineError::Content {
        path: path.clone(),
        reason: error.to_string(),
    })?;
    let as_json = |model: &LlavaModel| {
        // Written out or not, a head has one width.
        let mut model = model.clone();
        model.text_config.head_dim = Some(model.text_config.head_dim());
        serde_json::to_value(model).unwrap_or_default()
    };
    let (found, wanted) = (as_json(&found), as_json(model));
    let mut problems = Vec::new();
    differences("finetune.model", &found, &wanted, &path, &mut problems);
    if problems.is_empty() {
        Ok(())
    } else {
        Err(EngineError::Run(problems))
    }
}

/// Fields that change no value of the forward pass.
const FREE: &[&str] = &[
    "max_position_embeddings",
    "initializer_range",
    "freeze_language_model",
    "freeze_vision_model",
    "freeze_vision_projection",
];

fn differences(at: &str, found: &Value, wanted: &Value, path: &Path, problems: &mut Vec<Problem>) {
    let (Some(found), Some(wanted)) = (found.as_object(), wanted.as_object()) else {
        return;
    };
    for (name, value) in wanted.iter().filter(|(name, _)| !FREE.contains(&name.as_str())) {
        let at = format!("{at}.{name}");
        let other = found.get(name).unwrap_or(&Value::Null);
        if value.is_object() {
            differences(&at, other, value, path, problems);
        } else if other != value {
            let problem = Problem::error(&at, format!("`{name}` is {value}, but {} says {other}", path.display()));
            problems.push(problem.help(format!("--set {at}={other}")));
        }
    }
}
