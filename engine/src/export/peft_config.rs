//! `adapter_config.json` of Hugging Face's PEFT.

use neva_layout::{LinearAdapter, ModelTable, ParamSpec};
use neva_schemas::{NameLayout, Reader};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Adapters as PEFT's config describes them.
#[derive(Debug)]
pub(super) struct PeftAdapters<'a> {
    /// Table of the model.
    pub(super) table: &'a ModelTable,
    /// Parameters of the model.
    pub(super) rows: &'a [ParamSpec],
    /// Adapters by the canonical names of their linears.
    pub(super) linears: &'a BTreeMap<&'a str, &'a LinearAdapter>,
    /// Names of tensors.
    pub(super) names: NameLayout,
    /// Program that reads them.
    pub(super) reader: Reader,
    /// The scale is `lora_alpha / sqrt(r)`.
    pub(super) rslora: bool,
}

/// Rank and `alpha` that most adapters have.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Usual {
    /// `r`.
    pub(super) rank: usize,
    /// `lora_alpha`.
    pub(super) alpha: f64,
}

impl PeftAdapters<'_> {
    /// Returns the name of a linear in the wrapped model.
    pub(super) fn module(&self, linear: &str) -> String {
        let weight = self.table.exported_name(self.names, &format!("{linear}.weight"));
        weight.strip_suffix(".weight").unwrap_or(&weight).to_owned()
    }

    /// Returns rank and `alpha` of most adapters. vLLM has one rank for all: the largest.
    pub(super) fn usual(&self) -> Usual {
        let (mut ranks, mut alphas) = (BTreeMap::new(), BTreeMap::new());
        for adapter in self.linears.values() {
            *ranks.entry(adapter.rank).or_insert(0) += 1;
            *alphas.entry(self.alpha(adapter).to_bits()).or_insert(0) += 1;
        }
        let rank = match self.reader {
            Reader::Vllm => ranks.keys().max().copied(),
            _ => ranks.iter().max_by_key(|(rank, count)| (**count, **rank)).map(|(rank, _)| *rank),
        };
        let bits = alphas.iter().max_by_key(|(bits, count)| (**count, **bits)).map(|(bits, _)| *bits);
        Usual {
            rank: rank.unwrap_or(1),
            alpha: bits.map_or(1.0, f64::from_bits),
        }
    }

    /// Returns the content of the file. `saved` are the modules that were trained themselves, `base` the base model.
    pub(super) fn config(&self, dropout: f64, saved: &BTreeSet<String>, base: Option<&str>) -> Value {
        let usual = self.usual();
        let (mut ranks, mut alphas) = (Map::new(), Map::new());
        if self.reader != Reader::Vllm {
            for (linear, adapter) in self.linears {
                if adapter.rank != usual.rank {
                    ranks.insert(self.module(linear), adapter.rank.into());
                }
                if self.alpha(adapter) != usual.alpha {
                    alphas.insert(self.module(linear), number(self.alpha(adapter)));
                }
            }
        }
        let saved = if saved.is_empty() { Value::Null } else { json!(saved) };
        json!({
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base,
            "inference_mode": true,
            "r": usual.rank,
            "lora_alpha": number(usual.alpha),
            "lora_dropout": dropout,
            "target_modules": self.pattern(),
            "modules_to_save": saved,
            "rank_pattern": ranks,
            "alpha_pattern": alphas,
            "use_dora": self.linears.values().any(|adapter| adapter.magnitude.is_some()),
            "use_rslora": self.rslora,
            "bias": "none",
            "fan_in_fan_out": false,
            "init_lora_weights": true,
        })
    }

    /// Returns `lora_alpha` of an adapter.
    fn alpha(&self, adapter: &LinearAdapter) -> f64 {
        let rank = adapter.rank as f64;
        let alpha = adapter.scale * if self.rslora { rank.sqrt() } else { rank };
        // The scale is a quotient, which may be off by a rounding.
        if (alpha - alpha.round()).abs() < 1e-9 * alpha.abs() {
            alpha.round()
        } else {
            alpha
        }
    }

    /// Returns a regular expression that matches the names of the adapted linears and no other module: not the linears of
    /// the same names in the vision encoder. It matches in every layout of names.
    fn pattern(&self) -> String {
        let all = self.rows.iter().filter_map(|row| Some(row.lora.as_ref()?.linear.as_str()));
        let mut existing: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        for linear in all {
            let place = self.place(linear);
            existing.entry((place.before, place.after)).or_default().insert(place.layer);
        }
        let mut own: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        for linear in self.linears.keys() {
            let place = self.place(linear);
            own.entry((place.before, place.after)).or_default().insert(place.layer);
        }
        // Linears with adapters in the same layers share an alternative.
        let mut alternatives: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for ((before, after), layers) in own {
            let every = existing.get(&(before.clone(), after.clone())) == Some(&layers);
            let layers = match layers.iter().copied().flatten().collect::<Vec<_>>()[..] {
                [] => String::new(),
                _ if every => r"\d+\.".to_owned(),
                [one] => format!(r"{one}\."),
                ref several => format!(r"(?:{})\.", several.join("|")),
            };
            alternatives.entry((before, layers)).or_default().push(after);
        }
        let alternatives = alternatives.into_iter().map(|((before, layers), ends)| match &ends[..] {
            [one] => format!("{before}{layers}{one}"),
            several => format!("{before}{layers}(?:{})", several.join("|")),
        });
        alternatives.collect::<Vec<_>>().join("|")
    }

    fn place<'b>(&self, linear: &'b str) -> Place<'b> {
        let (prefix, rest) = self.table.module_pattern(linear);
        let escaped = |text: &str| text.replace('.', r"\.");
        let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        let mut start = 0;
        for part in rest.split('.') {
            let end = start + part.len();
            if is_number(part) && end < rest.len() {
                return Place {
                    before: format!("{prefix}{}", escaped(&rest[..start])),
                    layer: Some(part),
                    after: escaped(&rest[end + 1..]),
                };
            }
            start = end + 1;
        }
        Place {
            before: prefix.to_owned(),
            layer: None,
            after: escaped(rest),
        }
    }
}

/// Name of a linear as parts of a regular expression: around the number of its layer.
struct Place<'a> {
    before: String,
    layer: Option<&'a str>,
    after: String,
}

/// Returns a number without a fraction as an integer, which PEFT's type is.
fn number(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 1e15 {
        return (value as i64).into();
    }
    value.into()
}
