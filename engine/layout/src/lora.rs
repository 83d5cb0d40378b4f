//! LoRA targets and the parameters of the adapters.
//!
//! A target is a module in Megatron's names (`linear_qkv` is q, k and v with one shared A: NeMo's
//! "performant LoRA") or a linear in Hugging Face's (`q_proj`, with its own A, as in PEFT).

use crate::parameter::{Cut, Init, LoraModule, ParamSpec, Part};
use neva_schemas::{LoRA, Problem};
use std::collections::BTreeMap;

/// The adapters of a model.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Adapters {
    /// Parameters of all adapters.
    pub parameters: Vec<ParamSpec>,
    /// Adapter of each adapted linear, by the linear's full name (without `.weight`).
    pub linears: BTreeMap<String, LinearAdapter>,
    /// Patterns that match no module.
    pub unmatched: Vec<String>,
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

/// A module that a pattern can match.
struct Module<'a> {
    /// Full name that patterns are matched against.
    name: &'a str,
    /// Name under which the shared A is saved.
    saved_as: &'a str,
    /// Its linears.
    linears: Vec<Linear<'a>>,
}

/// A linear that may get an adapter.
#[derive(Clone, Copy)]
struct Linear<'a> {
    weight: &'a ParamSpec,
    module: &'a LoraModule,
}

/// Returns the adapters that `lora` requests for the linears among `parameters`.
///
/// # Errors
/// A linear is matched twice (alone and within a fused module), or no pattern matches.
pub fn lora_adapters(parameters: &[ParamSpec], lora: &LoRA, path: &str) -> Result<Adapters, Vec<Problem>> {
    let modules = modules(parameters);
    let mut adapters = Adapters::default();
    let mut problems = Vec::new();
    let mut chosen = vec![false; modules.len()];
    for pattern in &lora.target_modules {
        let mut hit = false;
        for (module, chosen) in modules.iter().zip(&mut chosen) {
            if matches(pattern, module.name) {
                (hit, *chosen) = (true, true);
            }
        }
        if !hit {
            adapters.unmatched.push(pattern.clone());
        }
    }
    for module in modules.iter().zip(&chosen).filter_map(|(module, chosen)| chosen.then_some(module)) {
        let a = format!("{}.lora_A.weight", module.saved_as);
        for (index, linear) in module.linears.iter().enumerate() {
            let [out, input] = [linear.weight.shape[0], linear.weight.shape[1]];
            let row = linear.weight.cut == Cut::Row;
            if index == 0 {
                // xavier_normal_ on the [dim, in] matrix, NeMo's `lora_A_init`.
                let std = (2.0 / (input + lora.dim) as f64).sqrt();
                let cut = if row { Cut::Row } else { Cut::Replicate };
                let a = adapter(*linear, &a, [lora.dim, input], cut, None, Init::Normal { std });
                adapters.parameters.push(a);
            }
            let name = &linear.module.linear;
            let b = format!("{name}.lora_B.weight");
            let cut = if row { Cut::Replicate } else { linear.weight.cut };
            let heads = linear.weight.heads;
            adapters
                .parameters
                .push(adapter(*linear, &b, [out, lora.dim], cut, heads, Init::Zeros));
            let adapter = LinearAdapter {
                a: a.clone(),
                b,
                rank: lora.dim,
                scale: lora.alpha / lora.dim as f64,
                magnitude: None,
            };
            if adapters.linears.insert(name.clone(), adapter).is_some() {
                problems.push(Problem::error(
                    format!("{path}.target_modules"),
                    format!("`{name}` would get two adapters: it is named alone and as part of a fused module"),
                ));
            }
        }
    }
    if adapters.linears.is_empty() {
        let examples: Vec<_> = modules
            .iter()
            .map(|module| module.name)
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

/// Returns the parameter A or B of the adapter of `linear`.
fn adapter(linear: Linear<'_>, name: &str, shape: [usize; 2], cut: Cut, heads: Option<usize>, init: Init) -> ParamSpec {
    ParamSpec {
        name: name.into(),
        shape: shape.to_vec(),
        init,
        cut,
        heads,
        stage: linear.weight.stage,
        part: Part::Adapter,
        adapts: Some(linear.weight.part),
        lora: None,
        partial_sum: linear.module.partial_sum.if_replicated(cut),
        used: true,
    }
}

/// Returns the modules that patterns can match: Megatron's modules, then each linear under its own name.
fn modules(parameters: &[ParamSpec]) -> Vec<Module<'_>> {
    let linears = || {
        let used = parameters.iter().filter(|spec| spec.used);
        used.filter_map(|weight| {
            let module = weight.lora.as_ref()?;
            Some(Linear { weight, module })
        })
    };
    let mut modules: Vec<Module<'_>> = Vec::new();
    for linear in linears() {
        let Some(name) = linear.module.megatron.as_deref() else { continue };
        // The linears of a fused module are adjacent.
        match modules.last_mut() {
            Some(last) if last.name == name => last.linears.push(linear),
            _ => modules.push(Module {
                name,
                saved_as: &linear.module.saved_as,
                linears: vec![linear],
            }),
        }
    }
    modules.extend(linears().map(|linear| Module {
        name: &linear.module.linear,
        saved_as: &linear.module.linear,
        linears: vec![linear],
    }));
    modules
}

/// Returns whether `pattern` matches by NeMo's rule: it is the last component of the name, or a wildcard for the full
/// name in which `*` also matches dots.
fn matches(pattern: &str, name: &str) -> bool {
    name.rsplit('.').next() == Some(pattern) || wildcard(pattern.as_bytes(), name.as_bytes())
}

/// Matches a wildcard pattern greedily with one backtracking point: linear in the product of the lengths.
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
