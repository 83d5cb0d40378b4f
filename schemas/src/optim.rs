//! Optimizer and learning-rate schedule.

use crate::schedule::LrScheduler;
use crate::validate::{Problem, Validate, at_least_0};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The optimizer. Each keeps fp32 master weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub enum Optim {
    /// Adam with decoupled weight decay: two moments for each weight.
    #[serde(rename = "optim.AdamW")]
    AdamW(AdamW),
    /// Stochastic gradient descent: no state without momentum, one buffer with it.
    #[serde(rename = "optim.SGD")]
    Sgd(Sgd),
    /// Sign of an interpolated momentum: one moment, half of AdamW's memory. Needs a learning rate about 3 to 10
    /// times lower than AdamW, and a weight decay higher by the same factor.
    #[serde(rename = "optim.Lion")]
    Lion(Lion),
}

/// NeMo's `distributed_fused_adam_with_cosine_annealing` (arXiv:1711.05101).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AdamW {
    /// Peak learning rate.
    pub lr: f64,
    /// Decoupled weight decay; not applied to biases and one-dimensional parameters.
    pub weight_decay: f64,
    /// Decay of the first and the second moment.
    pub betas: (f64, f64),
    /// Term added to the denominator.
    pub eps: f64,
    /// Maximum global L2 norm of the gradient; 0 disables clipping.
    pub clip_grad: f64,
    /// Peak learning rate of the projector, if it differs; LLaVA's name.
    pub mm_projector_lr: Option<f64>,
    /// Parameter groups with their own values; the first group that matches a parameter applies.
    pub param_groups: Vec<ParamGroup>,
    /// Learning-rate schedule.
    pub lr_scheduler: LrScheduler,
}

/// `torch.optim.SGD` with decoupled weight decay.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Sgd {
    /// Peak learning rate.
    pub lr: f64,
    /// Decoupled weight decay (weights shrink by lr x decay); not applied to biases and one-dimensional parameters.
    pub weight_decay: f64,
    /// Momentum factor.
    pub momentum: f64,
    /// Enables Nesterov momentum.
    pub nesterov: bool,
    /// Maximum global L2 norm of the gradient; 0 disables clipping.
    pub clip_grad: f64,
    /// Peak learning rate of the projector, if it differs; LLaVA's name.
    pub mm_projector_lr: Option<f64>,
    /// Parameter groups with their own values; the first group that matches a parameter applies.
    pub param_groups: Vec<ParamGroup>,
    /// Learning-rate schedule.
    pub lr_scheduler: LrScheduler,
}

/// Lion (arXiv:2302.06675).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Lion {
    /// Peak learning rate.
    pub lr: f64,
    /// Decoupled weight decay; not applied to biases and one-dimensional parameters.
    pub weight_decay: f64,
    /// Weight of the momentum in the update, and decay of the momentum.
    pub betas: (f64, f64),
    /// Maximum global L2 norm of the gradient; 0 disables clipping.
    pub clip_grad: f64,
    /// Peak learning rate of the projector, if it differs; LLaVA's name.
    pub mm_projector_lr: Option<f64>,
    /// Parameter groups with their own values; the first group that matches a parameter applies.
    pub param_groups: Vec<ParamGroup>,
    /// Learning-rate schedule.
    pub lr_scheduler: LrScheduler,
}

/// Parameters with their own learning rate or weight decay.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ParamGroup {
    /// Wildcard patterns for full parameter names; `*` also matches dots: `*.vision_tower.*`, `*lora_B*`.
    pub params: Vec<String>,
    /// Peak learning rate; `null` uses the optimizer's.
    #[serde(default)]
    pub lr: Option<f64>,
    /// Weight decay of all parameters of the group, including biases; `null` uses the optimizer's.
    #[serde(default)]
    pub weight_decay: Option<f64>,
}

impl Default for AdamW {
    fn default() -> Self {
        Self {
            lr: 2e-5,
            weight_decay: 0.1,
            betas: (0.9, 0.95),
            eps: 1e-5,
            clip_grad: 1.0,
            mm_projector_lr: None,
            param_groups: Vec::new(),
            lr_scheduler: LrScheduler::default(),
        }
    }
}

impl Default for Sgd {
    fn default() -> Self {
        Self {
            lr: 1e-3,
            weight_decay: 0.0,
            momentum: 0.9,
            nesterov: false,
            clip_grad: 1.0,
            mm_projector_lr: None,
            param_groups: Vec::new(),
            lr_scheduler: LrScheduler::default(),
        }
    }
}

impl Default for Lion {
    fn default() -> Self {
        Self {
            lr: 3e-6,
            weight_decay: 1.0,
            betas: (0.9, 0.99),
            clip_grad: 1.0,
            mm_projector_lr: None,
            param_groups: Vec::new(),
            lr_scheduler: LrScheduler::default(),
        }
    }
}

/// Accessor of a field that every optimizer has.
macro_rules! shared {
    ($(#[$doc:meta])* $field:ident, $get:ident: $type:ty) => {
        $(#[$doc])*
        pub fn $get(&self) -> &$type {
            match self {
                Self::AdamW(optim) => &optim.$field,
                Self::Sgd(optim) => &optim.$field,
                Self::Lion(optim) => &optim.$field,
            }
        }
    };
    ($(#[$doc:meta])* mut $field:ident, $get:ident: $type:ty) => {
        $(#[$doc])*
        pub fn $get(&mut self) -> &mut $type {
            match self {
                Self::AdamW(optim) => &mut optim.$field,
                Self::Sgd(optim) => &mut optim.$field,
                Self::Lion(optim) => &mut optim.$field,
            }
        }
    };
}

impl Optim {
    shared!(
        /// Returns the peak learning rate.
        lr, lr: f64);
    shared!(
        /// Returns the peak learning rate, mutable.
        mut lr, lr_mut: f64);
    shared!(
        /// Returns the weight decay.
        weight_decay, weight_decay: f64);
    shared!(
        /// Returns the weight decay, mutable.
        mut weight_decay, weight_decay_mut: f64);
    shared!(
        /// Returns the maximum gradient norm; 0 disables clipping.
        clip_grad, clip_grad: f64);
    shared!(
        /// Returns the maximum gradient norm, mutable.
        mut clip_grad, clip_grad_mut: f64);
    shared!(
        /// Returns the peak learning rate of the projector, if it differs.
        mm_projector_lr, mm_projector_lr: Option<f64>);
    shared!(
        /// Returns the parameter groups, as written.
        param_groups, param_groups: Vec<ParamGroup>);
    shared!(
        /// Returns the parameter groups, mutable.
        mut param_groups, param_groups_mut: Vec<ParamGroup>);
    shared!(
        /// Returns the learning-rate schedule.
        lr_scheduler, lr_scheduler: LrScheduler);
    shared!(
        /// Returns the learning-rate schedule, mutable.
        mut lr_scheduler, lr_scheduler_mut: LrScheduler);

    /// Returns the AdamW settings if this is AdamW.
    pub fn adamw(&self) -> Option<&AdamW> {
        match self {
            Self::AdamW(adamw) => Some(adamw),
            _ => None,
        }
    }
}

impl Validate for Optim {
    fn validate(&self, path: &str, problems: &mut Vec<Problem>) {
        at_least_0(path, problems, "lr", *self.lr());
        at_least_0(path, problems, "weight_decay", *self.weight_decay());
        at_least_0(path, problems, "clip_grad", *self.clip_grad());
        let betas = match self {
            Self::AdamW(AdamW { betas, eps, .. }) => {
                at_least_0(path, problems, "eps", *eps);
                vec![("betas[0]", betas.0), ("betas[1]", betas.1)]
            }
            Self::Lion(Lion { betas, .. }) => vec![("betas[0]", betas.0), ("betas[1]", betas.1)],
            Self::Sgd(Sgd { momentum, nesterov, .. }) => {
                if *nesterov && *momentum == 0.0 {
                    let message = "`nesterov` needs a momentum above 0";
                    problems.push(Problem::error(format!("{path}.nesterov"), message).help("set `momentum`, for example to 0.9"));
                }
                vec![("momentum", *momentum)]
            }
        };
        for (name, value) in betas {
            if !(0.0..1.0).contains(&value) {
                let message = format!("`{name}` is {value:?}, it must be at least 0 and below 1");
                problems.push(Problem::error(format!("{path}.{name}"), message));
            }
        }
        if let Some(lr) = self.mm_projector_lr() {
            at_least_0(path, problems, "mm_projector_lr", *lr);
            self.lr_scheduler().validate_peak(path, "mm_projector_lr", *lr, problems);
        }
        for (index, group) in self.param_groups().iter().enumerate() {
            let at = format!("{path}.param_groups[{index}]");
            for (index, name) in group.params.iter().enumerate().filter(|(_, name)| name.parse::<f64>().is_ok()) {
                let message = format!("`{name}` is a number, not the name of a parameter");
                problems.push(Problem::error(format!("{at}.params[{index}]"), message).help("write a wildcard on the full name: *lora_B*"));
            }
            if group.params.is_empty() {
                problems.push(Problem::error(
                    format!("{at}.params"),
                    "`params` is empty: the group matches no parameter",
                ));
            }
            if let Some(decay) = group.weight_decay {
                at_least_0(&at, problems, "weight_decay", decay);
            }
            if let Some(lr) = group.lr {
                at_least_0(&at, problems, "lr", lr);
                self.lr_scheduler().validate_peak(&at, "lr", lr, problems);
            }
        }
        let path = path.to_owned();
        self.lr_scheduler().validate(&format!("{path}.lr_scheduler"), problems);
        self.lr_scheduler().validate_peak(&path, "lr", *self.lr(), problems);
    }
}
