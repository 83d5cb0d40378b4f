//! The parameters that this rank holds, by full name.

use crate::error::{EngineError, Result};
use indexmap::IndexMap;
use neva_layout::ParamSpec;
use tch::Tensor;

/// A parameter on this rank.
#[derive(Debug)]
pub struct Parameter {
    /// Name, whole shape, cut.
    pub spec: ParamSpec,
    /// The local part, in the kind that the model computes in; a leaf that requires a gradient if trainable.
    pub tensor: Tensor,
    /// Whether the run trains it.
    pub trainable: bool,
}

/// All parameters of this rank, in the table's order.
#[derive(Debug, Default)]
pub struct Parameters {
    by_name: IndexMap<String, Parameter>,
}

impl Parameters {
    /// Adds a parameter.
    pub fn insert(&mut self, parameter: Parameter) {
        self.by_name.insert(parameter.spec.name.clone(), parameter);
    }

    /// The parameter of that name.
    ///
    /// # Errors
    /// There is none: the model asks for what its table does not list.
    pub fn get(&self, name: &str) -> Result<&Parameter> {
        self.find(name)
            .ok_or_else(|| EngineError::Bug(format!("no parameter is called `{name}`")))
    }

    /// The parameter of that name, if there is one.
    pub fn find(&self, name: &str) -> Option<&Parameter> {
        self.by_name.get(name)
    }

    /// All parameters.
    pub fn iter(&self) -> impl Iterator<Item = &Parameter> {
        self.by_name.values()
    }

    /// Those that the run trains.
    pub fn trainable(&self) -> impl Iterator<Item = &Parameter> {
        self.iter().filter(|parameter| parameter.trainable)
    }
}
