//! LoRA targets and the parameters of the adapters.
//!
//! A target is a module in Megatron's names (`linear_qkv` is q, k and v with one shared A: NeMo's
//! "performant LoRA") or a linear in Hugging Face's (`q_proj`, with its own A, as in PEFT).

mod module;
mod patterns;
mod rows;

pub use patterns::Patterns;
pub(crate) use patterns::wildcard;

use crate::parameter::ParamSpec;
use module::{Module, modules};
use neva_schemas::{LoRA, Problem};
use std::collections::BTreeMap;

/// The adapters of a model.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Adapters {
    /// Parameters of all adapters.
    pub parameters: Vec<ParamSpec>,
    /// Adapter of each adapted linear, by the linear's full name (without `.weight`).
    pub linears: BTreeMap<String, LinearAdapter>,
    /// Settings that name no module: the name of the setting, and the pattern.
    pub unmatched: Vec<(&'static str, String)>,
}

/// Adapter of one linear: `W' = W + scale * B A`; with a magnitude `m`, each row of `W'` is scaled to the length `m`.
#[derive(Debug, Clone, PartialEq)]
pub struct LinearAdapter {
    /// `[dim, in]`, shared by the linears of a fused module.
    pub a: String,
    /// `[out, dim]`.
    pub b: String,
    /// `dim`.
    pub rank: usize,
    /// Factor of `B A`.
    pub scale: f64,
    /// `[out]`, the lengths of the rows with weight decomposition (DoRA).
    pub magnitude: Option<String>,
}

/// Returns the adapters that `lora` requests for the linears among `parameters`. Linears that the forward pass does not use
/// get adapters as well, as in PEFT: they are stored for export.
///
/// # Errors
/// A linear is matched twice (alone and within a fused module), no pattern matches, or a pattern is no regular expression.
pub fn lora_adapters(parameters: &[ParamSpec], lora: &LoRA, path: &str) -> Result<Adapters, Vec<Problem>> {
    let modules = modules(parameters, lora);
    let mut adapters = Adapters::default();
    let chosen = choose(&modules, lora, path, &mut adapters)?;
    let ranks = Patterns::of_ends(lora.rank_pattern.keys(), &format!("{path}.rank_pattern"))?;
    let alphas = Patterns::of_ends(lora.alpha_pattern.keys(), &format!("{path}.alpha_pattern"))?;
    let mut problems = Vec::new();
    let mut used = [vec![false; lora.rank_pattern.len()], vec![false; lora.alpha_pattern.len()]];
    for module in modules.iter().zip(&chosen).filter_map(|(module, chosen)| chosen.then_some(module)) {
        let named = |patterns: &Patterns, used: &mut Vec<bool>| {
            let index = module.names().find_map(|name| patterns.first(name));
            index.inspect(|index| used[*index] = true)
        };
        let rank = named(&ranks, &mut used[0]).and_then(|index| lora.rank_pattern.get_index(index));
        let alpha = named(&alphas, &mut used[1]).and_then(|index| lora.alpha_pattern.get_index(index));
        let (rank, alpha) = (
            rank.map_or(lora.dim, |(_, rank)| *rank),
            alpha.map_or(lora.alpha, |(_, alpha)| *alpha),
        );
        for (linear, adapter) in module.add_rows(lora, rank, lora.scale(alpha, rank), &mut adapters.parameters) {
            if adapters.linears.insert(linear.clone(), adapter).is_some() {
                problems.push(Problem::error(
                    format!("{path}.target_modules"),
                    format!("`{linear}` would get two adapters: it is named alone and as part of a fused module"),
                ));
            }
        }
    }
    let [used_ranks, used_alphas] = used;
    let ranks = lora.rank_pattern.keys().zip(used_ranks).map(|it| ("rank_pattern", it));
    let alphas = lora.alpha_pattern.keys().zip(used_alphas).map(|it| ("alpha_pattern", it));
    let unused = ranks.chain(alphas).filter(|(_, (_, used))| !used);
    adapters
        .unmatched
        .extend(unused.map(|(setting, (pattern, _))| (setting, pattern.clone())));
    let unsaved = lora.modules_to_save.iter().filter(|pattern| {
        let mut own = parameters.iter();
        !own.any(|spec| saves_module(std::slice::from_ref(*pattern), &spec.name))
    });
    adapters
        .unmatched
        .extend(unsaved.map(|pattern| ("modules_to_save", pattern.clone())));
    if adapters.linears.is_empty() {
        problems.push(nothing_matches(&modules, lora, path));
    }
    if problems.is_empty() { Ok(adapters) } else { Err(problems) }
}

/// Returns for each module whether it is a target, by NeMo's rules. Notes patterns that match nothing.
fn choose(modules: &[Module<'_>], lora: &LoRA, path: &str, adapters: &mut Adapters) -> Result<Vec<bool>, Vec<Problem>> {
    let (setting, list) = if lora.targets_all() {
        ("exclude_modules", &lora.exclude_modules)
    } else {
        ("target_modules", &lora.target_modules)
    };
    let patterns = Patterns::of_modules(list, &format!("{path}.{setting}"))?;
    let mut used = vec![false; list.len()];
    let mut named = |module: &Module<'_>| {
        let hits: Vec<_> = patterns.all(module.name).collect();
        hits.iter().for_each(|hit| used[*hit] = true);
        !hits.is_empty()
    };
    let chosen = modules.iter().map(|module| match lora.targets_all() {
        // Every linear once: by its module in Megatron's names, or by its own where Megatron has none.
        true => !named(module) && module.is_primary,
        false => named(module),
    });
    let chosen = chosen.collect();
    let unused = list.iter().zip(used).filter(|(_, used)| !used);
    adapters.unmatched.extend(unused.map(|(pattern, _)| (setting, pattern.clone())));
    Ok(chosen)
}

fn nothing_matches(modules: &[Module<'_>], lora: &LoRA, path: &str) -> Problem {
    let examples: Vec<_> = modules
        .iter()
        .map(|module| module.name)
        .step_by(modules.len().div_ceil(6).max(1))
        .collect();
    let (setting, message) = if lora.targets_all() {
        ("exclude_modules", format!("{:?} excludes every module", lora.exclude_modules))
    } else {
        ("target_modules", format!("no module matches any of {:?}", lora.target_modules))
    };
    Problem::error(format!("{path}.{setting}"), message).help(format!("modules are named like {}", examples.join(", ")))
}

/// Returns whether a parameter belongs to a module that `modules_to_save` names: by the last component of the module's
/// name, or by a wildcard for all of it.
pub fn saves_module(patterns: &[String], parameter: &str) -> bool {
    let mut ends = parameter.match_indices('.').map(|(end, _)| &parameter[..end]);
    let named = |module: &str, pattern: &String| {
        module.rsplit('.').next() == Some(pattern.as_str()) || wildcard(pattern.as_bytes(), module.as_bytes())
    };
    ends.any(|module| patterns.iter().any(|pattern| named(module, pattern)))
}
