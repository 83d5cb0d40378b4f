//! What a run trained, in PEFT's terms: adapters, and modules that are saved as a whole.

use super::source::Source;
use super::tensors::Named;
use super::whole::check_complete;
use super::{NameLayout, Reader};
use crate::checkpoint::Extent;
use crate::error::{EngineError, Result};
use neva_layout::{LinearAdapter, ParamSpec, Part};
use neva_schemas::Problem;
use std::collections::{BTreeMap, BTreeSet};
use tch::Tensor;

/// What a run trained, in PEFT's terms.
pub(super) struct PeftContents<'a> {
    pub(super) source: &'a Source,
    /// Adapters by the canonical names of their linears; those within a saved module are merged into it.
    pub(super) linears: BTreeMap<&'a str, &'a LinearAdapter>,
    /// Canonical names of modules that were trained themselves, with the names that PEFT finds them by.
    pub(super) saved: BTreeMap<String, String>,
}

impl<'a> PeftContents<'a> {
    pub(super) fn of(source: &'a Source, names: NameLayout) -> Result<Self> {
        if source.adapters.linears.is_empty() {
            let message = format!("{} has no adapters", source.path.display());
            return Err(EngineError::Run(vec![
                Problem::error("--format", message).help("export the whole model: --format hf"),
            ]));
        }
        let mut saved = BTreeMap::new();
        for spec in source.rows.iter().filter(|spec| source.trains(spec)) {
            let (module, name) = match source.table.module_of_part(spec.part) {
                Some(name) => (module_of_part(source, spec, name), name.to_owned()),
                None => {
                    let module = spec
                        .name
                        .rsplit_once('.')
                        .map_or(spec.name.as_str(), |(module, _)| module)
                        .to_owned();
                    let name = source.table.exported_name(names, &module);
                    (module, name)
                }
            };
            saved.insert(module, name);
        }
        let mut decoder = source.rows.iter().filter(|spec| spec.part == Part::Language && spec.used);
        if decoder.all(|spec| source.trains(spec)) {
            let message = format!("{} trained the language model itself, besides adapters", source.path.display());
            return Err(EngineError::Run(vec![
                Problem::error("--format", message).help("export the whole model: --format hf"),
            ]));
        }
        let own = source.adapters.linears.iter();
        let linears: BTreeMap<_, _> = own
            .filter(|(linear, _)| !saved.keys().any(|module| is_within(linear, module)))
            .map(|(linear, adapter)| (linear.as_str(), adapter))
            .collect();
        if linears.is_empty() {
            let message = format!("{} has adapters only on modules that it trained themselves", source.path.display());
            return Err(EngineError::Run(vec![
                Problem::error("--format", message).help("export the whole model: --format hf"),
            ]));
        }
        let contents = Self { source, linears, saved };
        let rows = source.rows.iter().filter(|spec| contents.is_saved(spec));
        let rows = rows.flat_map(|spec| source.parts(spec));
        let adapters = contents.linears.values().flat_map(|adapter| tensors_of(adapter));
        check_complete(source, rows.chain(adapters.cloned()))?;
        Ok(contents)
    }

    pub(super) fn is_saved(&self, spec: &ParamSpec) -> bool {
        self.saved.keys().any(|module| is_within(&spec.name, module))
    }

    /// Refuses what the reader would ignore.
    pub(super) fn check_reader(&self, reader: Reader) -> Result<()> {
        let refuse = |message: String, help: &str| Err(EngineError::Run(vec![Problem::error("--for", message).help(help)]));
        let saved: Vec<_> = self.saved.values().cloned().collect::<BTreeSet<_>>().into_iter().collect();
        match reader {
            Reader::Transformers if !saved.is_empty() => refuse(
                format!("transformers' `load_adapter` ignores trained modules: {}", saved.join(", ")),
                "use --for peft, or --format hf",
            ),
            Reader::Vllm if self.linears.values().any(|adapter| adapter.magnitude.is_some()) => {
                refuse("vLLM does not compute DoRA".into(), "merge the adapter: --format hf --for vllm")
            }
            _ => Ok(()),
        }
    }

    /// Returns where a parameter of [`Self::base`] lies that is exported as one file holds it.
    pub(super) fn base_extent(&self, spec: &ParamSpec) -> Option<Extent> {
        match self.is_saved(spec) {
            true => self.source.extent(spec),
            false => self.source.plain_extent(spec),
        }
    }

    /// Returns the values of a base with the saved modules, without the other adapters.
    pub(super) fn base(&self, group: &[Named]) -> Result<Vec<Tensor>> {
        let own = |(spec, _): &Named| match self.is_saved(spec) {
            true => self.source.merged(std::iter::once(spec)),
            false => self.source.plain(std::iter::once(spec)),
        };
        let values = group.iter().map(own).collect::<Result<Vec<_>>>()?;
        Ok(values.into_iter().flatten().collect())
    }
}

fn tensors_of(adapter: &LinearAdapter) -> impl Iterator<Item = &String> {
    [Some(&adapter.a), Some(&adapter.b), adapter.magnitude.as_ref()]
        .into_iter()
        .flatten()
}

/// Returns whether a name is a module or below it.
fn is_within(name: &str, module: &str) -> bool {
    name.strip_prefix(module)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// Returns the canonical name of the module called `name` that contains a parameter of its part.
fn module_of_part(source: &Source, spec: &ParamSpec, name: &str) -> String {
    let mark = format!(".{name}.");
    let canonical = source.table.exported_name(NameLayout::Newer, &spec.name);
    match canonical.find(&mark) {
        Some(at) => canonical[..at + mark.len() - 1].to_owned(),
        None => canonical,
    }
}
