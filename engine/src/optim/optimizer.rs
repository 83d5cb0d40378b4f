//! The optimizer: fp32 master weights and moments of every trainable parameter, or of this rank's share of them. As in
//! `torch.optim`, a parameter that no gradient reached in a step is left alone, its decay, moments and step count
//! included.

use super::gather::{Gather, is_below};
use super::gradients::Gradients;
use super::partition::Partition;
use super::rule::{Slot, update};
use crate::error::Result;
use crate::nn::Wait;
use crate::parameters::Parameters;
use neva_layout::{Hyperparameters, ParamSpec, hyperparameters};
use neva_schemas::{DistributedDataParallelConfig, Optim};
use neva_torch_ffi::foreach;
use std::ops::Range;
use tch::{Kind, Tensor};

/// An optimizer and its state.
#[derive(Debug)]
pub struct Optimizer {
    config: Optim,
    groups: Vec<Hyperparameters>,
    states: Vec<State>,
    /// Where each rank updates a share.
    gather: Option<Gather>,
    overlap_gather: bool,
}

/// What the optimizer knows of a run of one parameter's values. Tensors are flat.
#[derive(Debug)]
pub(super) struct State {
    spec: ParamSpec,
    /// Number of the parameter among the trainable ones.
    index: usize,
    range: Range<usize>,
    pub(super) master: Tensor,
    /// The parameter's values, where they are not the master weights themselves.
    rounded: Option<Tensor>,
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
    /// A fresh state for whatever of the trainable parameters this rank updates.
    ///
    /// # Errors
    /// libtorch refused.
    pub fn new(config: &Optim, ddp: &DistributedDataParallelConfig, parameters: &Parameters, partition: &Partition) -> Result<Self> {
        // First: the states below are views of the parameters' memory.
        let gather = partition.is_distributed().then(|| Gather::new(parameters, partition)).transpose()?;
        let (mut groups, mut states) = (Vec::new(), Vec::new());
        for (index, parameter) in parameters.trainable().enumerate() {
            let range = partition.own(index);
            if range.is_empty() {
                continue;
            }
            let own = hyperparameters(config, &parameter.spec);
            let group = groups.iter().position(|group| *group == own).unwrap_or_else(|| {
                groups.push(own);
                groups.len() - 1
            });
            let flat = parameter.tensor.detach().f_view([-1])?;
            let weights = flat.f_narrow(0, range.start as i64, range.len() as i64)?;
            let (master, rounded) = match weights.kind() {
                Kind::Float => (weights, None),
                _ => (weights.f_to_kind(Kind::Float)?, Some(weights)),
            };
            let moment = |name: &&'static str| Ok((*name, master.f_zeros_like()?));
            states.push(State {
                spec: parameter.spec.clone(),
                index,
                range,
                rounded,
                moments: moments(config).iter().map(moment).collect::<Result<_>>()?,
                step: Tensor::f_zeros([1], (Kind::Float, master.device()))?,
                group,
                master,
            });
        }
        Ok(Self {
            config: config.clone(),
            groups,
            states,
            gather,
            overlap_gather: ddp.overlap_param_gather,
        })
    }

    /// One step on all touched parameters; `rate` turns a peak learning rate into that of the step. Where each rank
    /// updates a share, the others' may still be on their way afterwards: see [`Self::arrivals`].
    ///
    /// # Errors
    /// A collective failed.
    pub fn step(&mut self, gradients: &Gradients, rate: impl Fn(f64) -> f64) -> Result<()> {
        self.settle()?;
        for (index, group) in self.groups.iter().enumerate() {
            let states = self.states.iter().filter(|state| state.group == index);
            let slot = |state| {
                Some(Slot {
                    state,
                    grad: gradients.own(state.index)?,
                })
            };
            let slots: Vec<_> = states.filter_map(slot).collect();
            update(&self.config, rate(group.lr), group.weight_decay, &slots)?;
        }
        let rounded = self
            .states
            .iter()
            .filter_map(|state| Some((state.rounded.as_ref()?, &state.master)));
        let (to, from): (Vec<_>, Vec<_>) = rounded.unzip();
        foreach::copy_(&to, &from)?;
        if let Some(gather) = &self.gather {
            gather.start()?;
            if !self.overlap_gather {
                self.settle()?;
            }
        }
        Ok(())
    }

    /// How a forward pass waits for the weights that it comes to, where they may still be on their way.
    pub fn arrivals(&self) -> Option<Wait> {
        let gather = self.gather.as_ref().filter(|_| self.overlap_gather)?;
        let arrivals = gather.arrivals().clone();
        Some(Box::new(move |part| arrivals.wait_for(|name| is_below(name, part))))
    }

    /// Blocks until all parameters are those behind the last step: before anything reads or changes them.
    ///
    /// # Errors
    /// A peer failed, now or before.
    pub fn settle(&self) -> Result<()> {
        self.gather.as_ref().map_or(Ok(()), |gather| gather.arrivals().wait_for(|_| true))
    }

    /// What the run asked for.
    pub fn config(&self) -> &Optim {
        &self.config
    }

    /// Whether each rank keeps its share only.
    pub fn is_distributed(&self) -> bool {
        self.gather.is_some()
    }

    /// Names of the moments that every piece has.
    pub fn moments(&self) -> &'static [&'static str] {
        moments(&self.config)
    }

    /// What this rank keeps, the same pieces in the same order on all ranks of a tensor group. A parameter that both
    /// ends of a pipeline hold has the same state on both.
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
