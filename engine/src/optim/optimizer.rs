//! The optimizer: fp32 master weights and moments of every trainable parameter. As in `torch.optim`, a parameter
//! that no gradient reached in a step is left alone, its decay, moments and step count included.

use super::gradients::Gradients;
use super::rule::{Slot, update};
use crate::error::Result;
use crate::parameters::{Parameter, Parameters};
use neva_layout::{Hyperparameters, ParamSpec, hyperparameters};
use neva_schemas::Optim;
use neva_torch_ffi::foreach;
use std::ops::Range;
use tch::{Kind, Tensor};

/// An optimizer and its state.
#[derive(Debug)]
pub struct Optimizer {
    config: Optim,
    groups: Vec<Hyperparameters>,
    states: Vec<State>,
}

/// What the optimizer knows of a run of one parameter's values. Tensors are flat.
#[derive(Debug)]
pub(super) struct State {
    spec: ParamSpec,
    range: Range<usize>,
    pub(super) master: Tensor,
    pub(super) moments: Vec<(&'static str, Tensor)>,
    pub(super) step: Tensor,
    group: usize,
}

/// A run of one parameter's values that this rank updates, and their state: what a checkpoint keeps of it. What is
/// copied into the tensors is the optimizer's new state.
#[derive(Debug)]
pub struct Piece<'a> {
    /// The parameter.
    pub spec: &'a ParamSpec,
    /// Values of the flattened local tensor, padding included: [`ParamSpec::windows_of`] says which rectangles of the
    /// whole parameter they are.
    pub range: Range<usize>,
    /// The weights in fp32 `[range.len()]`; the parameter's own memory where that is fp32.
    pub master: &'a Tensor,
    /// Averages over the steps `[range.len()]`, each under the name that a checkpoint gives it.
    pub moments: Vec<(&'static str, &'a Tensor)>,
    /// Steps that touched the parameter `[1]`, fp32: the same in all of its pieces.
    pub step: &'a Tensor,
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
            let master = parameter.tensor.detach().flatten(0, -1);
            let master = if master.kind() == Kind::Float {
                master
            } else {
                master.to_kind(Kind::Float)
            };
            State {
                spec: parameter.spec.clone(),
                range: 0..master.numel(),
                moments: moments(config).iter().map(|name| (*name, master.zeros_like())).collect(),
                step: Tensor::zeros([1], (Kind::Float, master.device())),
                group,
                master,
            }
        };
        let states = parameters.trainable().map(&mut state).collect();
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
                .iter()
                .zip(gradients.touched())
                .filter(|(state, _)| state.group == index)
                .filter_map(|(state, grad)| {
                    Some(Slot {
                        state,
                        grad: grad?.flatten(0, -1),
                    })
                })
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
        let pairs = parameters.trainable().zip(&self.states);
        let (to, from): (Vec<_>, Vec<_>) = pairs
            .filter(|(parameter, _)| parameter.tensor.kind() != Kind::Float)
            .map(|(parameter, state)| (&parameter.tensor, state.master.view_as(&parameter.tensor)))
            .unzip();
        Ok(foreach::copy_(&to, &from.iter().collect::<Vec<_>>())?)
    }

    /// What the run asked for.
    pub fn config(&self) -> &Optim {
        &self.config
    }

    /// What this rank keeps, the same pieces in the same order on all ranks of a tensor group.
    pub fn pieces(&self) -> impl Iterator<Item = Piece<'_>> {
        self.states.iter().map(|state| Piece {
            spec: &state.spec,
            range: state.range.clone(),
            master: &state.master,
            moments: state.moments.iter().map(|(name, moment)| (*name, moment)).collect(),
            step: &state.step,
        })
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
