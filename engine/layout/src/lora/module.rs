//! Modules that targets can name.

use crate::parameter::{LoraModule, ParamSpec};
use neva_schemas::LoRA;

/// A module that a pattern can match.
pub(super) struct Module<'a> {
    /// Full name that patterns are matched against.
    pub(super) name: &'a str,
    /// Name under which the shared A is saved.
    pub(super) saved_as: &'a str,
    /// Its linears.
    pub(super) linears: Vec<Linear<'a>>,
    /// True for exactly one of the modules that contain a linear.
    pub(super) is_primary: bool,
}

/// A linear that may get an adapter.
#[derive(Clone, Copy)]
pub(super) struct Linear<'a> {
    pub(super) weight: &'a ParamSpec,
    pub(super) module: &'a LoraModule,
}

impl<'a> Module<'a> {
    /// Returns the names under which ranks can be given: its own, and those of its linears.
    pub(super) fn names(&self) -> impl Iterator<Item = &'a str> {
        let linears: Vec<_> = self.linears.iter().map(|linear| linear.module.linear.as_str()).collect();
        [self.name, self.saved_as].into_iter().chain(linears)
    }
}

/// Returns the modules that patterns can match: Megatron's modules (or with canonical adapters, its linears), then each
/// linear under its own name.
pub(super) fn modules<'a>(parameters: &'a [ParamSpec], lora: &LoRA) -> Vec<Module<'a>> {
    let linears = || {
        parameters.iter().filter_map(|weight| {
            let module = weight.lora.as_ref()?;
            Some(Linear { weight, module })
        })
    };
    let mut modules: Vec<Module<'_>> = Vec::new();
    for linear in linears() {
        let own = linear.module;
        if lora.canonical {
            modules.extend(own.canonical.as_deref().map(|name| Module::alone(name, linear, true)));
            continue;
        }
        let Some(name) = own.megatron.as_deref() else { continue };
        // The linears of a fused module are adjacent.
        match modules.last_mut() {
            Some(last) if last.name == name => last.linears.push(linear),
            _ => modules.push(Module {
                saved_as: &own.saved_as,
                ..Module::alone(name, linear, true)
            }),
        }
    }
    modules.extend(linears().map(|linear| Module::alone(&linear.module.linear, linear, linear.module.megatron.is_none())));
    modules
}

impl<'a> Module<'a> {
    fn alone(name: &'a str, linear: Linear<'a>, is_primary: bool) -> Self {
        Self {
            name,
            saved_as: &linear.module.linear,
            linears: vec![linear],
            is_primary,
        }
    }
}
