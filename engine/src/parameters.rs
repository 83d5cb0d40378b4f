//! The parameters that this rank holds, by full name.

use crate::error::{EngineError, Result};
use crate::param_sync::{ParamSync, Weight};
use indexmap::{IndexMap, IndexSet};
use neva_layout::ParamSpec;
use tch::Tensor;

/// A parameter on this rank.
#[derive(Debug)]
pub struct Parameter {
    /// Name, whole shape and cut.
    pub spec: ParamSpec,
    /// The local shard, in the data type of the computation; a leaf that requires a gradient if trainable.
    pub tensor: Tensor,
    /// True if the run trains it.
    pub trainable: bool,
}

/// All parameters of this rank, in the table's order.
#[derive(Debug, Default)]
pub struct Parameters {
    by_name: IndexMap<String, Parameter>,
    /// Names of the trainable parameters.
    trainable: IndexSet<String>,
    sync: ParamSync,
}

impl Parameters {
    /// Adds a parameter.
    pub fn insert(&mut self, parameter: Parameter) {
        if parameter.trainable {
            self.trainable.insert(parameter.spec.name.clone());
        }
        self.by_name.insert(parameter.spec.name.clone(), parameter);
    }

    /// Returns the parameter of that name.
    ///
    /// # Errors
    /// There is none: the model's table does not list it.
    pub fn get(&self, name: &str) -> Result<&Parameter> {
        self.find(name)
            .ok_or_else(|| EngineError::Bug(format!("no parameter is called `{name}`")))
    }

    /// Returns the parameter of that name, if there is one.
    pub fn find(&self, name: &str) -> Option<&Parameter> {
        self.by_name.get(name)
    }

    /// Returns the parameter of that name as a weight, which waits for its gather.
    ///
    /// # Errors
    /// There is none.
    pub fn weight(&self, name: &str) -> Result<Weight> {
        let sync = self.trainable_index(name).map(|index| (index, self.sync.clone()));
        Ok(Weight::new(self.get(name)?.tensor.shallow_clone(), sync))
    }

    /// Returns the index of a parameter among the trainable ones, if it is trainable.
    pub fn trainable_index(&self, name: &str) -> Option<usize> {
        self.trainable.get_index_of(name)
    }

    /// Returns the link from all weights to the optimizer that gathers them.
    pub fn sync(&self) -> &ParamSync {
        &self.sync
    }

    /// Iterates over all parameters.
    pub fn iter(&self) -> impl Iterator<Item = &Parameter> {
        self.by_name.values()
    }

    /// Iterates over the parameters that the run trains.
    pub fn trainable(&self) -> impl Iterator<Item = &Parameter> {
        self.iter().filter(|parameter| parameter.trainable)
    }
}
