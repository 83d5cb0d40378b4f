//! The optimizer: fp32 master weights and moments of every trainable parameter. As in `torch.optim`, a parameter
//! that no gradient reached in a step is left alone, its decay, moments and step count included.

use super::gradients::Gradients;
use super::rule::{Slot, update};
use crate::error::Result;
use crate::parameters::{Parameter, Parameters};
use indexmap::IndexMap;
use neva_layout::{Hyperparameters, hyperparameters};
use neva_schemas::Optim;
use neva_torch_ffi::foreach;
use tch::{Kind, Tensor};

/// An optimizer and its state.
#[derive(Debug)]
pub struct Optimizer {
    config: Optim,
    groups: Vec<Hyperparameters>,
    states: IndexMap<String, OptimizerState>,
}

/// What the optimizer knows of one parameter.
#[derive(Debug)]
pub struct OptimizerState {
    /// The weight in fp32; the parameter itself where that is fp32.
    pub master: Tensor,
    /// Averages over the steps, each under the name that a checkpoint gives it; shaped as the weight.
    pub moments: Vec<(&'static str, Tensor)>,
    /// Steps that touched the parameter, one fp32 value.
    pub step: Tensor,
    group: usize,
}

impl Optimizer {
    /// A fresh state for every trainable parameter.
    pub fn new(config: &Optim, parameters: &Parameters) -> Self {
        let mut groups = Vec::new();
        let mut state = |parameter: &Parameter| {
            let own = hyperparameters(config, &parameter.spec);
            let group = groups.iter().position(|group| *group == own).unwrap_or_else(|| {
                groups.push(own);
                groups.len() - 1
            });
            let master = parameter.tensor.detach();
            let master = if master.kind() == Kind::Float {
                master
            } else {
                master.to_kind(Kind::Float)
            };
            OptimizerState {
                moments: moments(config).iter().map(|name| (*name, master.zeros_like())).collect(),
                step: Tensor::zeros([1], (Kind::Float, master.device())),
                group,
                master,
            }
        };
        let states = parameters
            .trainable()
            .map(|parameter| (parameter.spec.name.clone(), state(parameter)))
            .collect();
        Self {
            config: config.clone(),
            groups,
            states,
        }
    }

    /// One step on all touched parameters; `rate` turns a peak learning rate into that of the step.
    ///
    /// # Errors
    /// libtorch refused.
    pub fn step(&mut self, parameters: &Parameters, gradients: &Gradients, rate: impl Fn(f64) -> f64) -> Result<()> {
        for (index, group) in self.groups.iter().enumerate() {
            let slots: Vec<_> = self
                .states
                .values()
                .zip(gradients.touched())
                .filter(|(state, _)| state.group == index)
                .filter_map(|(state, grad)| Some(Slot { state, grad: grad? }))
                .collect();
            update(&self.config, rate(group.lr), group.weight_decay, &slots)?;
        }
        self.write_back(parameters)
    }

    /// Copies the master weights into parameters of another kind.
    ///
    /// # Errors
    /// libtorch refused.
    pub fn write_back(&self, parameters: &Parameters) -> Result<()> {
        let pairs = parameters.trainable().zip(self.states.values());
        let (to, from): (Vec<_>, Vec<_>) = pairs
            .filter(|(parameter, _)| parameter.tensor.kind() != Kind::Float)
            .map(|(parameter, state)| (&parameter.tensor, &state.master))
            .unzip();
        Ok(foreach::copy_(&to, &from)?)
    }

    /// What the run asked for.
    pub fn config(&self) -> &Optim {
        &self.config
    }

    /// The state of each parameter, by name.
    pub fn states(&self) -> impl Iterator<Item = (&str, &OptimizerState)> {
        self.states.iter().map(|(name, state)| (name.as_str(), state))
    }
}

/// Names of an optimizer's moments: torch's.
fn moments(config: &Optim) -> &'static [&'static str] {
    match config {
        Optim::AdamW(_) => &["exp_avg", "exp_avg_sq"],
        Optim::Lion(_) => &["exp_avg"],
        Optim::Sgd(sgd) if sgd.momentum > 0.0 => &["momentum_buffer"],
        Optim::Sgd(_) => &[],
    }
}
