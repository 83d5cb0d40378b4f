//! The optimizer: fp32 master weights and moments of every trainable parameter, or of this rank's shard of them. As in
//! `torch.optim`, a step does not change parameters without a gradient: no decay, same moments, same step count.

use super::gradients::Gradients;
use super::master::MasterWeights;
use super::param_gather::ParamGather;
use super::partition::Partition;
use super::rule::{Slot, update};
use super::state::State;
use crate::comm::Mesh;
use crate::error::Result;
use crate::fp8::ScalingStates;
use crate::param_sync::FinishParamSync;
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
    /// Set with a distributed optimizer.
    gather: Option<ParamGather>,
    overlap_gather: bool,
}

/// The values of one parameter that this rank updates, and their state, for checkpoints. Copying into the tensors
/// changes the optimizer's state.
#[derive(Debug)]
pub struct OptimizerShard<'a> {
    /// The parameter.
    pub spec: &'a ParamSpec,
    /// Range in the flattened local tensor, padding included; [`ParamSpec::windows_of`] converts it to rectangles of the
    /// whole parameter.
    pub range: Range<usize>,
    /// The weights in fp32 `[range.len()]`; the parameter's own memory if that is fp32, with the rest of each value if it is bf16
    /// on a CPU.
    pub master: &'a MasterWeights,
    /// Moments `[range.len()]`, each with its name in a checkpoint.
    pub moments: Vec<(&'static str, &'a Tensor)>,
    /// Number of steps that touched the parameter `[1]`, fp32; the same in all of its shards.
    pub step: &'a Tensor,
}

impl Optimizer {
    /// Creates the initial state of all values that this rank updates.
    ///
    /// # Errors
    /// libtorch refused.
    pub fn new(config: &Optim, ddp: &DistributedDataParallelConfig, parameters: &Parameters, partition: &Partition) -> Result<Self> {
        // First, because the states below are views of the parameters' memory.
        let gather = partition
            .is_distributed()
            .then(|| ParamGather::new(parameters, partition))
            .transpose()?;
        let (mut groups, mut states) = (Vec::new(), Vec::new());
        for (index, parameter) in parameters.trainable().enumerate() {
            let range = partition.local_range(index);
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
            let options = (Kind::Float, weights.device());
            // A gather in FP8 changes weights.
            let alone = !partition.is_gathered_in_fp8(partition.location(index).0);
            let master = MasterWeights::new(weights.shallow_clone(), alone)?;
            let moment = |name: &&'static str| Ok((*name, Tensor::f_zeros(weights.size(), options)?));
            states.push(State {
                spec: parameter.spec.clone(),
                index,
                range,
                rounded: whole(&master)
                    .filter(|_| weights.kind() != Kind::Float)
                    .map(|_| weights.shallow_clone()),
                moments: moments(config).iter().map(moment).collect::<Result<_>>()?,
                step: Tensor::f_zeros([1], options)?,
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

    /// Gathers the weights of the partition's FP8 buckets in FP8 from now on, with the scales of `scaling`.
    ///
    /// # Errors
    /// A weight has no scale.
    pub fn gather_in_fp8(&mut self, parameters: &Parameters, partition: &Partition, scaling: &ScalingStates, mesh: &Mesh) -> Result<()> {
        match &mut self.gather {
            Some(gather) => gather.gather_in_fp8(parameters, partition, scaling, mesh),
            None => Ok(()),
        }
    }

    /// Returns whether any weights are gathered in FP8.
    pub fn gathers_in_fp8(&self) -> bool {
        self.gather.as_ref().is_some_and(ParamGather::gathers_in_fp8)
    }

    /// Runs one step on all touched parameters; `rate` converts a peak learning rate to that of the step. With a
    /// distributed optimizer, the param gather may still be in flight afterwards: see [`Self::finish_param_sync`].
    ///
    /// # Errors
    /// A collective failed.
    pub fn step(&mut self, gradients: &Gradients, rate: impl Fn(f64) -> f64) -> Result<()> {
        self.finish_param_gather()?;
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
            .filter_map(|state| Some((state.rounded.as_ref()?, whole(&state.master)?)));
        let (to, from): (Vec<_>, Vec<_>) = rounded.unzip();
        foreach::copy_(&to, &from)?;
        if let Some(gather) = &self.gather {
            gather.start()?;
            if !self.overlap_gather {
                self.finish_param_gather()?;
            }
        }
        Ok(())
    }

    /// Returns the wait for one parameter's gather, if the gather overlaps with the next forward pass.
    pub fn finish_param_sync(&self) -> Option<FinishParamSync> {
        let gather = self.gather.as_ref().filter(|_| self.overlap_gather)?;
        let in_flight = gather.in_flight().clone();
        Some(Box::new(move |index| in_flight.finish(index)))
    }

    /// Waits until all parameters have the values of the last step. Call it before reading or changing them.
    ///
    /// # Errors
    /// A peer failed, now or before.
    pub fn finish_param_gather(&self) -> Result<()> {
        self.gather.as_ref().map_or(Ok(()), |gather| gather.in_flight().finish_all())
    }

    /// Returns the configuration.
    pub fn config(&self) -> &Optim {
        &self.config
    }

    /// Returns whether each rank holds only its shard.
    pub fn is_distributed(&self) -> bool {
        self.gather.is_some()
    }

    /// Returns the names of the moments of every shard.
    pub fn moments(&self) -> &'static [&'static str] {
        moments(&self.config)
    }

    /// Returns the shards of this rank: the same ones in the same order on all ranks of a tensor-parallel group. A tied
    /// embedding has the same state on the first and the last stage.
    pub fn shards(&self) -> impl Iterator<Item = OptimizerShard<'_>> {
        self.states.iter().map(|state| OptimizerShard {
            spec: &state.spec,
            range: state.range.clone(),
            master: &state.master,
            moments: state.moments.iter().map(|(name, moment)| (*name, moment)).collect(),
            step: &state.step,
        })
    }
}

/// Returns the tensor of master weights that are one.
fn whole(master: &MasterWeights) -> Option<&Tensor> {
    match master {
        MasterWeights::Whole(own) => Some(own),
        MasterWeights::Split(_) => None,
    }
}

/// Returns torch's names of an optimizer's moments.
fn moments(config: &Optim) -> &'static [&'static str] {
    match config {
        Optim::AdamW(_) => &["exp_avg", "exp_avg_sq"],
        Optim::Lion(_) => &["exp_avg"],
        Optim::Sgd(sgd) if sgd.momentum > 0.0 => &["momentum_buffer"],
        Optim::Sgd(_) => &[],
    }
}
