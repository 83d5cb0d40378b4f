//! Learning rate and weight decay of each parameter.

use crate::lora::wildcard;
use crate::parameter::{ParamSpec, Part};
use neva_schemas::{Optim, ParamGroup};

/// Settings of the optimizer for one parameter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hyperparameters {
    /// Peak learning rate.
    pub lr: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
}

/// Returns learning rate and weight decay of `spec`: those of the first group that names it, then LLaVA's
/// `mm_projector_lr`, then the optimizer's. Without a group, biases and one-dimensional parameters do not decay (NeMo,
/// LLaVA).
pub fn hyperparameters(optim: &Optim, spec: &ParamSpec) -> Hyperparameters {
    let group = optim.param_groups().iter().find(|group| matches_name(group, &spec.name));
    let decay = if spec.decays() { *optim.weight_decay() } else { 0.0 };
    let (lr, weight_decay) = match group {
        Some(group) => (group.lr, group.weight_decay),
        None if spec.owner() == Part::Projection => (*optim.mm_projector_lr(), None),
        None => (None, None),
    };
    Hyperparameters {
        lr: lr.unwrap_or(*optim.lr()),
        weight_decay: weight_decay.unwrap_or(decay),
    }
}

/// Returns the settings that match none of the `trained` parameters: patterns of parameter groups, and
/// `mm_projector_lr`.
pub fn unmatched_optim_settings<'a>(optim: &Optim, trained: impl Iterator<Item = &'a ParamSpec> + Clone) -> Vec<String> {
    let patterns = optim.param_groups().iter().flat_map(|group| &group.params);
    let unmatched = patterns.filter(|pattern| !trained.clone().any(|spec| wildcard(pattern.as_bytes(), spec.name.as_bytes())));
    let mut unmatched: Vec<_> = unmatched
        .map(|pattern| format!("param_groups: {pattern:?} matches no trainable parameter"))
        .collect();
    if optim.mm_projector_lr().is_some() && !trained.clone().any(|spec| spec.owner() == Part::Projection) {
        unmatched.push("mm_projector_lr: the projector has no trainable parameter".into());
    }
    unmatched
}

fn matches_name(group: &ParamGroup, name: &str) -> bool {
    group.params.iter().any(|pattern| wildcard(pattern.as_bytes(), name.as_bytes()))
}
