//! The base weights of a run, opened: the place of every parameter is known, and any of them can be read.

use super::base::Base;
use super::extent::Extent;
use super::folder::CheckpointFolder;
use super::hugging_face::check_config;
use super::model_files::ModelFiles;
use super::part::PartFiles;
use super::placement::{Placement, Values};
use super::trained_tensors::TrainedTensors;
use crate::error::{EngineError, Result};
use crate::random::fresh;
use neva_layout::{ModelCache, ModelTable, ParamSpec, Part};
use neva_schemas::Finetune;
use std::path::Path;

/// Opened base weights.
#[derive(Debug)]
pub(crate) enum OpenBase {
    /// Fresh values.
    Seed(u64),
    /// A Hugging Face folder of the whole model.
    Whole(ModelFiles),
    /// A Hugging Face folder, read for one part of the model.
    Part(PartFiles),
    /// Sources of parts, and of the rest.
    Parts(Vec<(Part, Self)>, Option<Box<Self>>),
    /// A checkpoint, and the source of the parameters that its run did not train.
    Checkpoint(TrainedTensors, Option<Box<Self>>),
}

/// A model, of which an [`OpenBase`] holds parameters.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OfModel<'a> {
    /// Table of the model.
    pub(crate) table: &'a ModelTable,
    /// All parameters of the model, without adapters.
    pub(crate) specs: &'a [ParamSpec],
    /// The run.
    pub(crate) finetune: &'a Finetune,
    /// Cache in which the base of a base is found.
    pub(crate) cache: &'a ModelCache,
}

impl OpenBase {
    /// Opens the files that hold `wanted`, some parameters of the model.
    ///
    /// # Errors
    /// A file is missing, not whole, or does not fit the model: then every missing, unknown or misshapen tensor is listed.
    pub(crate) fn open(base: &Base, wanted: &[ParamSpec], model: OfModel<'_>) -> Result<Self> {
        Ok(match base {
            Base::Seed(seed) => Self::Seed(*seed),
            Base::HuggingFace(folder) => {
                check_config(folder, &model.finetune.model, model.table.families())?;
                // Weights may be read in several turns, of which one warns.
                let is_first = |spec: &ParamSpec| model.specs.first().is_some_and(|first| first.name == spec.name);
                Self::Whole(ModelFiles::open(model.table, folder, model.specs, wanted.iter().any(is_first))?)
            }
            Base::Parts(parts) => {
                let (mut opened, mut rest) = (Vec::new(), Vec::new());
                for part in [Part::Language, Part::Projection, Part::Vision] {
                    let own: Vec<_> = wanted.iter().filter(|spec| spec.part == part).cloned().collect();
                    match parts.of(part) {
                        _ if own.is_empty() => {}
                        Some(Base::HuggingFace(folder)) => {
                            opened.push((part, Self::Part(PartFiles::open(model.table, folder, part, model.specs)?)));
                        }
                        Some(base) => opened.push((part, Self::open(base, &own, model)?)),
                        None => rest.extend(own),
                    }
                }
                let rest = match rest.is_empty() {
                    true => None,
                    false => Some(Box::new(Self::open(&parts.rest, &rest, model)?)),
                };
                Self::Parts(opened, rest)
            }
            Base::Checkpoint(path) => Self::checkpoint(path, None, wanted, model)?,
            Base::Rebased { checkpoint, base } => Self::checkpoint(checkpoint, Some(base), wanted, model)?,
        })
    }

    /// Opens a checkpoint. Parameters that its run did not train come from its own base, or from `base`.
    fn checkpoint(path: &Path, base: Option<&Base>, wanted: &[ParamSpec], model: OfModel<'_>) -> Result<Self> {
        let checkpoint = CheckpointFolder::open(path)?;
        let own = &checkpoint.run.finetune;
        let trained = TrainedTensors::open(&checkpoint, own, model.specs)?;
        let rest: Vec<_> = wanted.iter().filter(|spec| !trained.holds(spec)).cloned().collect();
        if rest.is_empty() {
            return Ok(Self::Checkpoint(trained, None));
        }
        let found = match base {
            Some(base) => base.clone(),
            None => Base::of(own, model.cache)?,
        };
        let rest = Self::open(&found, &rest, OfModel { finetune: own, ..model })?;
        Ok(Self::Checkpoint(trained, Some(Box::new(rest))))
    }

    /// Reads this rank's local shards of `wanted`, which were among those to open.
    ///
    /// # Errors
    /// A file cannot be read, or holds NaN or infinite values.
    pub(crate) fn read(&self, wanted: &[ParamSpec], placement: Placement) -> Result<Values> {
        let split =
            |own: &dyn Fn(&ParamSpec) -> bool| -> (Vec<ParamSpec>, Vec<ParamSpec>) { wanted.iter().cloned().partition(|spec| own(spec)) };
        Ok(match self {
            Self::Seed(seed) => fresh_values(wanted, *seed, placement),
            Self::Whole(files) => files.read(wanted, placement)?,
            Self::Part(files) => files.read(wanted, placement)?,
            Self::Parts(parts, rest) => {
                let mut values = Values::new();
                for (part, base) in parts {
                    let (own, _) = split(&|spec| spec.part == *part);
                    values.append(&mut base.read(&own, placement)?);
                }
                let (_, others) = split(&|spec| parts.iter().any(|(part, _)| spec.part == *part));
                values.append(&mut read_rest(rest.as_deref(), &others, placement)?);
                values
            }
            Self::Checkpoint(trained, rest) => {
                let (own, others) = split(&|spec| trained.holds(spec));
                let mut values = trained.read(own.iter(), placement)?;
                values.append(&mut read_rest(rest.as_deref(), &others, placement)?);
                values
            }
        })
    }
}

impl OpenBase {
    /// Returns where a parameter lies that one file holds as a whole.
    pub(crate) fn extent(&self, spec: &ParamSpec) -> Option<Extent> {
        let extent = match self {
            Self::Seed(_) => None,
            Self::Whole(files) => files.extent(spec),
            Self::Part(files) => files.extent(spec),
            Self::Parts(parts, rest) => match parts.iter().find(|(part, _)| spec.part == *part) {
                Some((_, base)) => base.extent(spec),
                None => rest.as_deref()?.extent(spec),
            },
            Self::Checkpoint(trained, _) if trained.holds(spec) => trained.extent(spec),
            Self::Checkpoint(_, rest) => rest.as_deref()?.extent(spec),
        };
        extent.filter(|extent| extent.shape == spec.shape)
    }
}

fn read_rest(rest: Option<&OpenBase>, wanted: &[ParamSpec], placement: Placement) -> Result<Values> {
    match (rest, wanted) {
        (_, []) => Ok(Values::new()),
        (Some(rest), wanted) => rest.read(wanted, placement),
        (None, [spec, ..]) => Err(EngineError::Bug(format!("the source of `{}` was not opened", spec.name))),
    }
}

/// Returns fresh values of this rank's local shards.
pub(crate) fn fresh_values(specs: &[ParamSpec], seed: u64, placement: Placement) -> Values {
    let value = |spec: &ParamSpec| (spec.name.clone(), fresh(spec, seed, placement.tp_rank, placement.tp));
    specs.iter().map(value).collect()
}
