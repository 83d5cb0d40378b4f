//! What to type so that a run fits an adapter.

use super::super::placement::Names;
use super::{A, B};
use neva_layout::families::freeze_setting;
use neva_layout::{ParamSpec, Part};
use neva_schemas::Finetune;
use serde_json::Value;
use std::collections::BTreeSet;

/// Returns the linears on which the run has adapters.
fn adapted(specs: &[ParamSpec]) -> BTreeSet<&str> {
    let own: BTreeSet<_> = specs.iter().map(|spec| spec.name.as_str()).collect();
    let linears = specs
        .iter()
        .filter_map(|spec| spec.lora.as_ref())
        .map(|module| module.linear.as_str());
    linears.filter(|linear| own.contains(format!("{linear}{B}").as_str())).collect()
}

/// Returns true if the run has one A for several linears that have their own A in the folder.
pub(super) fn shares_an_a(specs: &[ParamSpec], names: &Names) -> bool {
    let own = |a: &String| specs.iter().any(|spec| spec.name == *a);
    let linears = adapted(specs).into_iter().map(|linear| format!("{linear}{A}"));
    linears.filter(|a| names.contains_key(a)).any(|a| !own(&a))
}

/// Returns the override that gives a run adapters on the same linears as the folder: a pattern for linears with an adapter
/// in every layer, full names for others.
pub(super) fn set_targets(specs: &[ParamSpec], names: &Names) -> String {
    let pattern = |linear: &str| match linear.split('.').collect::<Vec<_>>()[..] {
        [_, tower, last] => format!("*.{tower}.{last}"),
        [_, tower, .., last] => format!("*.{tower}.*.{last}"),
        _ => linear.to_owned(),
    };
    let theirs: BTreeSet<_> = names.keys().filter_map(|name| name.strip_suffix(A)).collect();
    let others = specs.iter().filter(|spec| spec.used).filter_map(|spec| spec.lora.as_ref());
    let others = others.map(|module| module.linear.as_str());
    let without: BTreeSet<_> = others.filter(|linear| !theirs.contains(linear)).map(pattern).collect();
    let targets = theirs.into_iter().map(|linear| {
        let pattern = pattern(linear);
        if without.contains(&pattern) { linear.to_owned() } else { pattern }
    });
    let targets: BTreeSet<_> = targets.collect();
    format!(
        "--set 'finetune.peft.target_modules={}'",
        Value::from(targets.into_iter().collect::<Vec<_>>())
    )
}

/// Returns true if the run has adapters on other linears than the folder.
pub(super) fn has_other_targets(specs: &[ParamSpec], names: &Names) -> bool {
    let theirs = names.keys().filter_map(|name| name.strip_suffix(A));
    adapted(specs) != theirs.collect::<BTreeSet<_>>()
}

/// Returns the reason why the folder fits no run of this model: it adapts linears that the model has not.
pub(super) fn of_another_model(specs: &[ParamSpec], names: &Names) -> Option<String> {
    let own: BTreeSet<_> = specs.iter().map(|spec| spec.name.as_str()).collect();
    let theirs = names.keys().filter_map(|name| name.strip_suffix(A));
    let unknown: Vec<_> = theirs.filter(|linear| !own.contains(format!("{linear}.weight").as_str())).collect();
    let (first, rest) = unknown.split_first()?;
    let more = match rest.len() {
        0 => String::new(),
        count => format!(" and {count} more that it adapts"),
    };
    Some(format!(
        "the adapter belongs to another model: this one has no linear `{first}`{more}"
    ))
}

/// Returns the override that makes a parameter trainable.
pub(super) fn unfreeze_hint(spec: &ParamSpec, finetune: &Finetune) -> String {
    let module = spec.name.rsplit_once('.').map_or(spec.name.as_str(), |(module, _)| module);
    let set = |path: String| format!(": set {path}=false");
    match (freeze_setting(spec.part), spec.part) {
        _ if !spec.used => " (the model never uses it)".into(),
        (None, _) => String::new(),
        (Some(setting), Part::Projection) => set(format!("finetune.model.{setting}")),
        (Some(_), Part::Language) if finetune.peft.is_some() => {
            let mut modules = finetune
                .peft
                .as_ref()
                .map(|peft| peft.lora().modules_to_save.clone())
                .unwrap_or_default();
            modules.push(module.to_owned());
            format!(": --set 'finetune.peft.modules_to_save={}'", Value::from(modules))
        }
        (Some(setting), _) => format!(": set {setting}=false in finetune.model and finetune.peft"),
    }
}
