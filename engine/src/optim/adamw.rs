//! AdamW (arXiv:1711.05101) with fp32 master weights and moments, as `torch.optim.AdamW`: a parameter
//! that no gradient reached in a step is left alone, its decay, moments and step count included.

use super::gradients::Gradients;
use crate::error::Result;
use crate::parameters::{Parameter, Parameters};
use indexmap::IndexMap;
use neva_schemas::AdamW as AdamWConfig;
use neva_torch_ffi::{AdamW as Kernel, AdamWSlot, foreach, fused_adamw_};
use tch::{Kind, Tensor};

/// The optimizer's state.
#[derive(Debug)]
pub struct AdamW {
    config: AdamWConfig,
    states: IndexMap<String, AdamWState>,
}

/// What AdamW knows of one parameter.
#[derive(Debug)]
pub struct AdamWState {
    /// The weight in fp32; the parameter itself where that is fp32.
    pub master: Tensor,
    /// Average of the gradient.
    pub exp_avg: Tensor,
    /// Average of its square.
    pub exp_avg_sq: Tensor,
    /// Steps that touched the parameter, one fp32 value.
    pub step: Tensor,
    decays: bool,
}

impl AdamW {
    /// A fresh state for every trainable parameter.
    pub fn new(config: &AdamWConfig, parameters: &Parameters) -> Self {
        let state = |parameter: &Parameter| {
            let master = parameter.tensor.detach();
            let master = if master.kind() == Kind::Float {
                master
            } else {
                master.to_kind(Kind::Float)
            };
            AdamWState {
                exp_avg: master.zeros_like(),
                exp_avg_sq: master.zeros_like(),
                step: Tensor::zeros([1], (Kind::Float, master.device())),
                decays: parameter.spec.decays(),
                master,
            }
        };
        let states = parameters
            .trainable()
            .map(|parameter| (parameter.spec.name.clone(), state(parameter)))
            .collect();
        Self {
            config: config.clone(),
            states,
        }
    }

    /// One step with learning rate `lr` on all touched parameters.
    ///
    /// # Errors
    /// libtorch refused.
    pub fn step(&mut self, parameters: &Parameters, gradients: &Gradients, lr: f64) -> Result<()> {
        let with_grad = || {
            self.states
                .values()
                .zip(gradients.touched())
                .filter_map(|(state, grad)| Some((state, grad?)))
        };
        for decays in [true, false] {
            let kernel = Kernel {
                lr,
                beta1: self.config.betas.0,
                beta2: self.config.betas.1,
                eps: self.config.eps,
                weight_decay: if decays { self.config.weight_decay } else { 0.0 },
                maximize: false,
            };
            let slots: Vec<_> = with_grad()
                .filter(|(state, _)| state.decays == decays)
                .map(|(state, grad)| AdamWSlot {
                    param: &state.master,
                    grad,
                    exp_avg: &state.exp_avg,
                    exp_avg_sq: &state.exp_avg_sq,
                    step: &state.step,
                })
                .collect();
            fused_adamw_(&kernel, &slots, None)?;
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

    /// The state of each parameter, by name.
    pub fn states(&self) -> impl Iterator<Item = (&str, &AdamWState)> {
        self.states.iter().map(|(name, state)| (name.as_str(), state))
    }
}
