//! Which linears get an adapter, and the adapters' parameters.
//!
//! A target is a module in Megatron's names (`linear_qkv` is q, k and v with one shared A: NeMo's
//! "performant LoRA") or a linear in Hugging Face's (`q_proj`, with an A of its own, as PEFT does).

use crate::parameter::{Cut, Init, ParamSpec, Part};
use neva_schemas::{LlavaModel, LoRA, Problem};
use std::collections::BTreeMap;

/// The adapters of a model.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Adapters {
    /// Parameters of all adapters.
    pub parameters: Vec<ParamSpec>,
    /// Adapter of each adapted linear, by the linear's full name (without `.weight`).
    pub linears: BTreeMap<String, LinearAdapter>,
    /// Patterns that matched nothing.
    pub unmatched: Vec<String>,
}

/// Adapter of one linear: the names of its two parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinearAdapter {
    /// `[dim, in]`, shared by the linears of a fused module.
    pub a: String,
    /// `[out, dim]`.
    pub b: String,
}

/// A module that a pattern can name.
struct Module {
    /// Full name as the pattern sees it.
    name: String,
    /// Name that the shared A is saved under.
    saved_as: String,
    /// The linears that it consists of.
    linears: Vec<String>,
}

/// Adapters that `lora` asks for on the linears among `parameters`.
///
/// # Errors
/// A linear is named twice (alone and as part of a fused module), or nothing matches at all.
pub fn lora_adapters(model: &LlavaModel, parameters: &[ParamSpec], lora: &LoRA, path: &str) -> Result<Adapters, Vec<Problem>> {
    let modules = modules(model, parameters);
    let mut adapters = Adapters::default();
    let mut problems = Vec::new();
    let mut chosen = vec![false; modules.len()];
    for pattern in &lora.target_modules {
        let mut hit = false;
        for (module, chosen) in modules.iter().zip(&mut chosen) {
            if matches(pattern, &module.name) {
                (hit, *chosen) = (true, true);
            }
        }
        if !hit {
            adapters.unmatched.push(pattern.clone());
        }
    }
    let specs: BTreeMap<&str, &ParamSpec> = parameters.iter().map(|spec| (spec.name.as_str(), spec)).collect();
    for module in modules.iter().zip(&chosen).filter_map(|(module, chosen)| chosen.then_some(module)) {
        let a = format!("{}.lora_A.weight", module.saved_as);
        for (index, linear) in module.linears.iter().enumerate() {
            let weight = format!("{linear}.weight");
            let (shape, own_cut, heads) = (
                &specs[weight.as_str()].shape,
                specs[weight.as_str()].cut,
                specs[weight.as_str()].heads,
            );
            let row = own_cut == Cut::Row;
            if index == 0 {
                // xavier_normal_ on the [dim, in] matrix, NeMo's `lora_A_init`.
                let std = (2.0 / (shape[1] + lora.dim) as f64).sqrt();
                let cut = if row { Cut::Row } else { Cut::Replicate };
                adapters
                    .parameters
                    .push(adapter(&a, [lora.dim, shape[1]], cut, Init::Normal { std }));
            }
            let b = format!("{linear}.lora_B.weight");
            let cut = if row { Cut::Replicate } else { own_cut };
            adapters.parameters.push(ParamSpec {
                heads,
                ..adapter(&b, [shape[0], lora.dim], cut, Init::Zeros)
            });
            if adapters.linears.insert(linear.clone(), LinearAdapter { a: a.clone(), b }).is_some() {
                problems.push(Problem::error(
                    format!("{path}.target_modules"),
                    format!("`{linear}` would get two adapters: it is named alone and as part of a fused module"),
                ));
            }
        }
    }
    if adapters.linears.is_empty() {
        let examples: Vec<_> = modules
            .iter()
            .map(|module| module.name.as_str())
            .step_by(modules.len().div_ceil(6).max(1))
            .collect();
        problems.push(
            Problem::error(
                format!("{path}.target_modules"),
                format!("no module matches any of {:?}", lora.target_modules),
            )
            .help(format!("modules are named like {}", examples.join(", "))),
        );
    }
    if problems.is_empty() { Ok(adapters) } else { Err(problems) }
}

fn adapter(name: &str, shape: [usize; 2], cut: Cut, init: Init) -> ParamSpec {
    ParamSpec {
        name: name.into(),
        shape: shape.to_vec(),
        cut,
        heads: None,
        part: Part::Adapter,
        init,
        used: true,
    }
}

/// Everything that can be named: Megatron's fused modules, and each linear under its own name.
fn modules(model: &LlavaModel, parameters: &[ParamSpec]) -> Vec<Module> {
    let mut modules = Vec::new();
    for layer in 0..model.text_config.num_hidden_layers {
        let native = format!("module.language_model.decoder.layers.{layer}");
        let own = format!("model.language_model.layers.{layer}");
        for (block, native_block, name, parts) in [
            ("self_attn", "self_attention", "linear_qkv", &["q_proj", "k_proj", "v_proj"][..]),
            ("self_attn", "self_attention", "linear_proj", &["o_proj"]),
            ("mlp", "mlp", "linear_fc1", &["gate_proj", "up_proj"]),
            ("mlp", "mlp", "linear_fc2", &["down_proj"]),
        ] {
            let saved_as = if parts.len() == 1 {
                format!("{own}.{block}.{}", parts[0])
            } else {
                format!("{own}.{block}.{name}")
            };
            modules.push(Module {
                name: format!("{native}.{native_block}.{name}"),
                saved_as,
                linears: parts.iter().map(|part| format!("{own}.{block}.{part}")).collect(),
            });
        }
    }
    for spec in parameters.iter().filter(|spec| spec.used && spec.shape.len() == 2) {
        let linear = spec.name.strip_suffix(".weight").unwrap_or(&spec.name);
        if !linear.contains("embed") && linear != "lm_head" {
            modules.push(Module {
                name: linear.into(),
                saved_as: linear.into(),
                linears: vec![linear.into()],
            });
        }
    }
    modules
}

/// NeMo's rule: a pattern is the last component of a name, or a wildcard on the full name in which `*`
/// crosses dots.
fn matches(pattern: &str, name: &str) -> bool {
    name.rsplit('.').next() == Some(pattern) || wildcard(pattern.as_bytes(), name.as_bytes())
}

/// Greedy matching with one point of return: linear in the lengths' product, whatever the pattern.
pub(crate) fn wildcard(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while t < text.len() {
        if p < pattern.len() && pattern[p] == b'*' {
            retry = Some((p + 1, t));
            p += 1;
        } else if p < pattern.len() && pattern[p] == text[t] {
            (p, t) = (p + 1, t + 1);
        } else if let Some((after_star, from)) = retry {
            retry = Some((after_star, from + 1));
            (p, t) = (after_star, from + 1);
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}
