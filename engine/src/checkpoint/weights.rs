//! From files, or from a seed, to this rank's parameters.

use super::adapter::Adapter;
use super::base::Base;
use super::cache::ModelCache;
use super::folder::CheckpointFolder;
use super::hugging_face::{check_config, hugging_face_files};
use super::safetensors_file::TensorFile;
use crate::error::{EngineError, Result};
use crate::parameters::{Parameter, Parameters};
use crate::random::fresh;
use neva_layout::{ParamSpec, Part, Window, canonical_name, ignorable, is_trainable};
use neva_schemas::Finetune;
use std::collections::BTreeMap;
use std::path::Path;
use tch::{Device, Kind, Tensor};

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

/// Where the parameters of a run come from, the last word first.
#[derive(Debug, Clone, Copy)]
pub struct Sources<'a> {
    /// A checkpoint that the run goes on from.
    pub checkpoint: Option<&'a CheckpointFolder>,
    /// Trained parameters that the run starts with.
    pub adapter: Option<&'a Adapter>,
    /// Everything else.
    pub base: &'a Base,
    /// Where the base of a base is found.
    pub cache: &'a ModelCache,
}

/// Parameters of a run as one rank holds them: those of `specs`, which are the whole model's, that are `wanted`.
///
/// # Errors
/// A file is missing, not whole, or does not fit the model: then every tensor that is missing, foreign or
/// misshapen is listed.
pub fn load_parameters(
    specs: &[ParamSpec],
    wanted: &dyn Fn(&ParamSpec) -> bool,
    finetune: &Finetune,
    sources: Sources<'_>,
    placement: Placement,
) -> Result<Parameters> {
    let mut values = match sources.checkpoint {
        Some(checkpoint) => trained_values(checkpoint, finetune, specs, wanted, placement)?,
        None => Values::new(),
    };
    let adapter = match sources.adapter {
        Some(Adapter::Checkpoint(checkpoint)) => trained_values(checkpoint, &checkpoint.run.finetune, specs, wanted, placement)?,
        Some(Adapter::Peft(folder)) => folder.read(specs, wanted, finetune, placement)?,
        None => Values::new(),
    };
    for (name, value) in adapter {
        values.entry(name).or_insert(value);
    }
    let own = || specs.iter().filter(|spec| wanted(spec));
    let rest: Vec<_> = own().filter(|spec| !values.contains_key(&spec.name)).cloned().collect();
    if !rest.is_empty() {
        values.append(&mut base_values(&rest, specs, finetune, sources.base, sources.cache, placement)?);
    }
    let mut parameters = Parameters::default();
    for spec in own() {
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
        self.part(spec, |window| file.read_window(name, window))
    }

    /// This rank's part of a parameter, of which `read` gives rectangles.
    fn part(&self, spec: &ParamSpec, read: impl FnOnce(&Window) -> Result<Tensor>) -> Result<Tensor> {
        let part = read(&spec.window(self.tp_rank, self.tp))?;
        let shard = spec.shard(self.tp_rank, self.tp);
        let mut shape: Vec<_> = spec.shape.iter().map(|size| *size as i64).collect();
        if let Some(shard) = shard {
            shape[shard.dim] = shard.len as i64;
        }
        let part = part.f_view(shape.as_slice())?;
        let Some(shard) = shard.filter(|shard| shard.len < shard.padded) else {
            return Ok(part);
        };
        shape[shard.dim] = (shard.padded - shard.len) as i64;
        Ok(Tensor::cat(
            &[&part, &Tensor::zeros(&shape, (part.kind(), part.device()))],
            shard.dim as i64,
        ))
    }
}

/// This rank's part of parameters, by name.
pub(super) type Values = BTreeMap<String, Tensor>;

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
            let wanted = |spec: &ParamSpec| model.iter().any(|wanted| wanted.name == spec.name);
            let mut values = trained_values(&checkpoint, own, &whole_model, &wanted, placement)?;
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

/// Those of `specs` that `run` trains and that are `wanted`, out of a checkpoint of ours, which must hold exactly what
/// the run trains.
fn trained_values(
    checkpoint: &CheckpointFolder,
    run: &Finetune,
    specs: &[ParamSpec],
    wanted: &dyn Fn(&ParamSpec) -> bool,
    placement: Placement,
) -> Result<Values> {
    let trained: Vec<_> = specs.iter().filter(|spec| is_trainable(spec, run)).cloned().collect();
    let tensors = checkpoint.model()?;
    let names = tensors
        .shapes()
        .map(|(name, shape)| (name.to_owned(), (0, name.to_owned(), shape.to_vec())))
        .collect();
    let problems = misfits(&names, &trained);
    if !problems.is_empty() {
        return Err(EngineError::Weights {
            path: tensors.path().to_owned(),
            problems,
        });
    }
    let read = |spec: &ParamSpec| {
        let value = placement.part(spec, |window| tensors.read(&spec.name, window))?;
        Ok((spec.name.clone(), value))
    };
    trained.iter().filter(|spec| wanted(spec)).map(read).collect()
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
pub(super) type Names = BTreeMap<String, (usize, String, Vec<usize>)>;

/// Reads `wanted`, which are some of `specs`, out of files that must hold exactly `specs`.
pub(super) fn read_all(
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
pub(super) fn misfits(names: &Names, specs: &[ParamSpec]) -> Vec<String> {
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
