//! The parameters that this rank holds, by full name.

use crate::effects::Effects;
use crate::error::{EngineError, Result};
use crate::param_sync::{ParamSync, Weight};
use crate::quantization::Quantized;
use indexmap::{IndexMap, IndexSet};
use neva_layout::ParamSpec;
use std::collections::{BTreeMap, BTreeSet};
use tch::{Kind, Tensor};

/// A parameter on this rank.
#[derive(Debug)]
pub struct Parameter {
    /// Name, whole shape and cut.
    pub spec: ParamSpec,
    /// The local shard, in the data type of the computation; a leaf that requires a gradient if trainable.
    pub tensor: Tensor,
    /// True if the run trains it.
    pub trainable: bool,
    /// The values in fewer bits; `tensor` then holds their bytes.
    pub quantized: Option<Quantized>,
}

/// All parameters of this rank, in the table's order.
#[derive(Debug, Default)]
pub struct Parameters {
    by_name: IndexMap<String, Parameter>,
    /// Names of the trainable parameters.
    trainable: IndexSet<String>,
    sync: ParamSync,
    effects: Effects,
    /// Trained parameters that no file held.
    fresh: BTreeSet<String>,
    /// Data type of the computation, if a parameter has it.
    kind: Option<Kind>,
}

impl Parameters {
    /// Adds a parameter.
    pub fn insert(&mut self, parameter: Parameter) {
        if parameter.trainable {
            self.trainable.insert(parameter.spec.name.clone());
        }
        if parameter.quantized.is_none() {
            self.kind = Some(parameter.tensor.kind());
        }
        self.by_name.insert(parameter.spec.name.clone(), parameter);
    }

    /// Adds parameters, in the order of `specs`.
    #[must_use]
    pub(crate) fn with(mut self, specs: &[ParamSpec], mut others: BTreeMap<String, Parameter>) -> Self {
        let mut by_name = IndexMap::new();
        for spec in specs {
            let own = self.by_name.swap_remove(&spec.name).or_else(|| others.remove(&spec.name));
            by_name.extend(own.map(|own| (spec.name.clone(), own)));
        }
        Self { by_name, ..self }
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

    /// Returns the counters of what is computed with these parameters.
    pub fn effects(&self) -> &Effects {
        &self.effects
    }

    /// Notes that no file held the parameter of that name.
    pub(crate) fn mark_fresh(&mut self, name: &str) {
        self.fresh.insert(name.to_owned());
    }

    /// Returns whether no file held the parameter of that name.
    pub(crate) fn is_fresh(&self, name: &str) -> bool {
        self.fresh.contains(name)
    }

    /// Returns the data type of the computation.
    pub fn kind(&self) -> Kind {
        self.kind.unwrap_or(Kind::Float)
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
