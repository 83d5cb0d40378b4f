//! What a reader makes of `adapter_config.json`: which linears get adapters, with which rank and scale.

use super::Subject;
use super::expected::Expected;
use crate::checkpoint::read_json;
use crate::error::{EngineError, Result};
use neva_layout::Adapters;
use neva_schemas::Reader;
use regex::Regex;
use serde_json::Value;
use std::path::Path;

const CONFIG: &str = "adapter_config.json";

/// Returns the run's adapters with the scales that the reader computes.
pub(super) fn reader_adapters(subject: &Subject<'_>, expected: &Expected<'_>) -> Result<Adapters> {
    let mut adapters = expected.adapters.clone();
    adapters.linears.retain(|linear, _| !expected.merges(linear));
    let Some(config) = subject.adapter.map(AdapterConfig::open).transpose()? else {
        return Ok(adapters);
    };
    for (linear, adapter) in &mut adapters.linears {
        adapter.scale = config.scale(&expected.module(linear))?;
    }
    Ok(adapters)
}

/// Returns every setting with which the reader would compute something else than the run.
pub(super) fn problems(subject: &Subject<'_>, expected: &Expected<'_>) -> Result<Vec<String>> {
    let Some(config) = subject.adapter.map(AdapterConfig::open).transpose()? else {
        return Ok(Vec::new());
    };
    let mut problems = Vec::new();
    let targets = config.targets()?;
    let matches = |linear: &str| targets.matches(&expected.module(linear));
    let adapted: Vec<_> = expected
        .adapters
        .linears
        .iter()
        .filter(|(linear, _)| !expected.merges(linear))
        .collect();
    for (linear, adapter) in &adapted {
        let (rank, scale) = {
            let module = expected.module(linear);
            (config.rank(&module)?, config.scale(&module)?)
        };
        // vLLM has one rank and one scale for all adapters: smaller ones are filled with zeros, and their B is scaled. The
        // logits are computed with what the file says.
        let is_other = match subject.form.2 {
            Reader::Vllm => rank < adapter.rank as f64,
            _ => rank != adapter.rank as f64 || (scale - adapter.scale).abs() > 1e-6 * adapter.scale.abs(),
        };
        if is_other {
            problems.push(format!(
                "{CONFIG} gives the adapter of `{linear}` rank {rank} and scale {scale}, the run has {} and {}",
                adapter.rank, adapter.scale
            ));
        }
        if !matches(linear) {
            problems.push(format!(
                "`target_modules` of {CONFIG} does not match `{linear}`, which the run adapted"
            ));
        }
    }
    // An adapter without tensors gets fresh ones, and a warning of missing keys.
    let linears = expected
        .rows
        .iter()
        .filter_map(|row| row.lora.as_ref())
        .map(|module| module.linear.as_str());
    let others = linears.filter(|linear| !adapted.iter().any(|(own, _)| own == linear) && matches(linear));
    problems.extend(others.map(|linear| format!("`target_modules` of {CONFIG} also matches `{linear}`, which has no adapter")));
    let saved = config.strings("modules_to_save");
    if subject.form.2 == Reader::Vllm {
        problems.extend(
            saved
                .iter()
                .map(|module| format!("vLLM refuses `modules_to_save`, which names `{module}`")),
        );
        if config.content["use_dora"] == true {
            problems.push("vLLM refuses adapters with `use_dora`".to_owned());
        }
    } else {
        // PEFT saves each module whose name ends with one of these.
        let is_saved = |name: &str| {
            let name = format!(".{}", expected.module(name));
            saved.iter().any(|module| name.contains(&format!(".{module}.")))
        };
        let whole = expected
            .rows
            .iter()
            .filter(|row| expected.trained().contains(&row.name) && !is_saved(&row.name));
        problems.extend(whole.map(|row| format!("`{}` was trained, but no name in `modules_to_save` is one of its modules", row.name)));
    }
    let dora = adapted.iter().any(|(_, adapter)| adapter.magnitude.is_some());
    if dora != (config.content["use_dora"] == true) {
        problems.push(format!("`use_dora` of {CONFIG} is {}", config.content["use_dora"]));
    }
    Ok(problems)
}

/// An opened `adapter_config.json`.
struct AdapterConfig {
    content: Value,
}

/// Linears that get adapters.
enum Targets {
    Pattern(Regex),
    Names(Vec<String>),
}

impl AdapterConfig {
    fn open(folder: &Path) -> Result<Self> {
        let content = read_json(&folder.join(CONFIG))?;
        Ok(Self { content })
    }

    fn strings(&self, name: &str) -> Vec<String> {
        let list = self.content[name].as_array().into_iter().flatten();
        list.filter_map(Value::as_str).map(str::to_owned).collect()
    }

    /// Returns the value for a linear: that of the first pattern that matches it, as PEFT's `get_pattern_key`, or `usual`.
    fn of_linear(&self, patterns: &str, usual: &str, linear: &str) -> Result<f64> {
        let own = self.content[patterns].as_object().into_iter().flatten();
        for (pattern, value) in own {
            if regex(&format!(r"(?:.*\.)?(?:{pattern})"))?.is_match(linear) {
                return Ok(value.as_f64().unwrap_or(f64::NAN));
            }
        }
        Ok(self.content[usual].as_f64().unwrap_or(f64::NAN))
    }

    fn rank(&self, linear: &str) -> Result<f64> {
        self.of_linear("rank_pattern", "r", linear)
    }

    fn scale(&self, linear: &str) -> Result<f64> {
        let (alpha, rank) = (self.of_linear("alpha_pattern", "lora_alpha", linear)?, self.rank(linear)?);
        Ok(if self.content["use_rslora"] == true {
            alpha / rank.sqrt()
        } else {
            alpha / rank
        })
    }

    fn targets(&self) -> Result<Targets> {
        match &self.content["target_modules"] {
            Value::String(pattern) => regex(pattern).map(Targets::Pattern),
            _ => Ok(Targets::Names(self.strings("target_modules"))),
        }
    }
}

impl Targets {
    /// Returns whether PEFT puts an adapter on a linear: the whole name matches the pattern, or ends with a name of the list.
    fn matches(&self, linear: &str) -> bool {
        match self {
            Self::Pattern(pattern) => pattern.is_match(linear),
            Self::Names(names) => names.iter().any(|name| linear == name || linear.ends_with(&format!(".{name}"))),
        }
    }
}

/// Compiles a pattern for whole names.
fn regex(pattern: &str) -> Result<Regex> {
    Regex::new(&format!("^(?:{pattern})$")).map_err(|error| EngineError::Export {
        path: CONFIG.into(),
        reader: "PEFT",
        problems: vec![format!("its pattern {pattern:?} cannot be read: {error}")],
    })
}
