//! The tensors that a run trained: those of a checkpoint, or of a folder of PEFT.

use crate::checkpoint::{Placement, TrainedTensors, Values};
use crate::error::Result;
use neva_layout::ParamSpec;
use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use tch::{Device, Kind};

/// Whole tensors on the CPU. Their kind is the file's.
pub(super) const WHOLE: Placement = Placement {
    tp_rank: 0,
    tp: 1,
    kind: Kind::Float,
    device: Device::Cpu,
};

/// The tensors that a run trained.
#[derive(Debug)]
pub(super) enum Trained {
    /// None: a Hugging Face folder.
    Nothing,
    /// Those of a checkpoint.
    Checkpoint(TrainedTensors),
    /// Those of a folder of PEFT, in memory: they are small. A tensor may not be shared by threads.
    Peft { values: Mutex<Values>, names: BTreeSet<String> },
}

impl Trained {
    /// Returns whether the run trained a parameter itself.
    pub(super) fn holds(&self, spec: &ParamSpec) -> bool {
        match self {
            Self::Nothing => false,
            Self::Checkpoint(tensors) => tensors.holds(spec),
            Self::Peft { names, .. } => names.contains(&spec.name),
        }
    }

    /// Returns the names of the tensors.
    pub(super) fn names(&self) -> BTreeSet<&str> {
        match self {
            Self::Nothing => BTreeSet::new(),
            Self::Checkpoint(tensors) => tensors.names().collect(),
            Self::Peft { names, .. } => names.iter().map(String::as_str).collect(),
        }
    }

    /// Reads those of `wanted` that were trained.
    ///
    /// # Errors
    /// A file cannot be read, or holds NaN or infinite values.
    pub(super) fn read(&self, wanted: &[ParamSpec]) -> Result<Values> {
        match self {
            Self::Nothing => Ok(Values::new()),
            Self::Checkpoint(tensors) => tensors.read(wanted.iter(), WHOLE),
            Self::Peft { values, .. } => {
                let values = values.lock().unwrap_or_else(PoisonError::into_inner);
                let own = wanted
                    .iter()
                    .filter_map(|spec| Some((spec.name.clone(), values.get(&spec.name)?.shallow_clone())));
                Ok(own.collect())
            }
        }
    }
}
