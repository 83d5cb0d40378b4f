//! Learning rate and weight decay of each parameter.

use crate::lora::wildcard;
use crate::parameter::ParamSpec;
use neva_schemas::{Optim, ParamGroup};

/// What the optimizer does to one parameter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hyperparameters {
    /// Peak learning rate.
    pub lr: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
}

/// Learning rate and weight decay of `spec`: those of the first group that names it, the optimizer's for what the
/// group leaves open. Without a group's word, biases and one-dimensional parameters do not decay (NeMo, LLaVA).
pub fn hyperparameters(optim: &Optim, spec: &ParamSpec) -> Hyperparameters {
    let group = optim
        .groups()
        .into_iter()
        .find(|group| names(group, &spec.name))
        .unwrap_or(ParamGroup {
            params: Vec::new(),
            lr: None,
            weight_decay: None,
        });
    let default = if spec.decays() { *optim.weight_decay() } else { 0.0 };
    Hyperparameters {
        lr: group.lr.unwrap_or(*optim.lr()),
        weight_decay: group.weight_decay.unwrap_or(default),
    }
}

/// Patterns of parameter groups that name none of `trained`: they do nothing.
pub fn idle_groups<'a>(optim: &Optim, trained: impl Iterator<Item = &'a str> + Clone) -> Vec<String> {
    let groups = optim.groups();
    let patterns = groups.iter().flat_map(|group| &group.params);
    patterns
        .filter(|pattern| !trained.clone().any(|name| wildcard(pattern.as_bytes(), name.as_bytes())))
        .cloned()
        .collect()
}

fn names(group: &ParamGroup, name: &str) -> bool {
    group.params.iter().any(|pattern| wildcard(pattern.as_bytes(), name.as_bytes()))
}
