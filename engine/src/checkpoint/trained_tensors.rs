//! The parameters that a checkpoint holds.

use super::extent::Extent;
use super::folder::CheckpointFolder;
use super::placement::{Placement, Values, all_finite, mismatches};
use super::stored_tensors::StoredTensors;
use crate::error::{EngineError, Result};
use neva_layout::{ParamSpec, is_trainable};
use neva_schemas::Finetune;
use std::collections::BTreeSet;

/// The trained parameters of a checkpoint.
#[derive(Debug)]
pub(crate) struct TrainedTensors {
    tensors: StoredTensors,
    names: BTreeSet<String>,
}

impl TrainedTensors {
    /// Opens a checkpoint, which must hold exactly those of `specs` that `run` trains; all of them if it holds a whole model.
    pub(crate) fn open(checkpoint: &CheckpointFolder, run: &Finetune, specs: &[ParamSpec]) -> Result<Self> {
        let is_held = |spec: &&ParamSpec| checkpoint.state.whole || is_trainable(spec, run);
        let trained: Vec<_> = specs.iter().filter(is_held).cloned().collect();
        let tensors = checkpoint.model()?;
        let names = tensors
            .shapes()
            .map(|(name, shape)| (name.to_owned(), (0, name.to_owned(), shape.to_vec())))
            .collect();
        let problems = mismatches(&names, &trained);
        if !problems.is_empty() {
            return Err(EngineError::Weights {
                path: tensors.path().to_owned(),
                problems,
            });
        }
        Ok(Self {
            tensors,
            names: trained.into_iter().map(|spec| spec.name).collect(),
        })
    }

    /// Returns whether the checkpoint holds a parameter.
    pub(crate) fn holds(&self, spec: &ParamSpec) -> bool {
        self.names.contains(&spec.name)
    }

    /// Returns the names of its parameters.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }

    /// Returns where a parameter lies that one file holds as a whole.
    pub(crate) fn extent(&self, spec: &ParamSpec) -> Option<Extent> {
        let extent = self.tensors.extent(&spec.name).filter(|_| self.holds(spec));
        extent.filter(|extent| extent.shape == spec.shape)
    }

    /// Reads those of `wanted` that it holds.
    pub(crate) fn read<'a>(&self, wanted: impl Iterator<Item = &'a ParamSpec>, placement: Placement) -> Result<Values> {
        let read = |spec: &ParamSpec| {
            let value = placement.local_shard(spec, |window| self.tensors.read(&spec.name, window))?;
            Ok((spec.name.clone(), value))
        };
        all_finite(self.tensors.path(), wanted.filter(|spec| self.holds(spec)).map(read))
    }
}
