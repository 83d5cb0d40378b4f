//! Adapters in the format of Hugging Face's PEFT, with the other modules that the run trained.

use super::companions::Companions;
use super::files::write_json;
use super::peft_config::{PeftAdapters, Usual};
use super::source::Source;
use super::tensors::{self, Named};
use super::whole::{Form, WholeModel, check_complete, dtype};
use super::{ExportRequest, NameLayout, Reader, Written};
use crate::checkpoint::{Base, ModelCache};
use crate::error::{EngineError, Result};
use neva_layout::{LinearAdapter, ParamSpec, Part};
use neva_schemas::{LoRA, Peft, Problem};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use tch::Tensor;

const CONFIG: &str = "adapter_config.json";
/// Name of the file of weights without its ending.
const WEIGHTS: &str = "adapter_model";
/// PEFT's name of the wrapped model.
const PREFIX: &str = "base_model.model.";
/// Folders of an export for vLLM, which reads no modules besides adapters.
pub(super) const BASE: &str = "base";
pub(super) const ADAPTER: &str = "adapter";

/// Writes the adapters of a run.
pub(super) fn write(source: &Source, request: &ExportRequest, cache: &ModelCache, folder: &Path) -> Result<Written> {
    let contents = Contents::of(source, request.names())?;
    contents.check_reader(request.reader())?;
    let adapters = PeftAdapters {
        table: &source.table,
        rows: &source.rows,
        linears: &contents.linears,
        names: request.names(),
        reader: request.reader(),
        // vLLM is given one scale for all.
        rslora: lora(source).is_some_and(|lora| lora.use_rslora) && request.reader() != Reader::Vllm,
    };
    if request.reader() == Reader::Vllm && !contents.saved.is_empty() {
        let (base, adapter) = (folder.join(BASE), folder.join(ADAPTER));
        for folder in [&base, &adapter] {
            std::fs::create_dir_all(folder).map_err(EngineError::io("create", folder))?;
        }
        let model = WholeModel {
            source,
            cache,
            form: Form::HuggingFace(NameLayout::Original),
            dtype: dtype(source, request.dtype),
            max_shard_size: request.max_shard_size,
        };
        let mut notes = model.write(&base, &|group| contents.base(group), &|spec| source.extent(spec))?;
        contents.write_adapter(&adapters, request, None, &adapter)?;
        notes.push(format!(
            "serve `{BASE}`, which has the trained modules, with the adapter in `{ADAPTER}`"
        ));
        return Ok(Written {
            model: Some(BASE),
            adapter: Some(ADAPTER),
            notes,
        });
    }
    let mut notes = Companions::write(source, cache, folder)?.notes;
    let base = base_name(&source.base, &mut notes);
    contents.write_adapter(&adapters, request, base.as_deref(), folder)?;
    Ok(Written {
        adapter: Some(""),
        notes,
        ..Written::default()
    })
}

fn lora(source: &Source) -> Option<&LoRA> {
    source.finetune.peft.as_ref().map(Peft::lora)
}

/// What a run trained, in PEFT's terms.
struct Contents<'a> {
    source: &'a Source,
    /// Adapters by the canonical names of their linears; those within a saved module are merged into it.
    linears: BTreeMap<&'a str, &'a LinearAdapter>,
    /// Canonical names of modules that were trained themselves, with the names that PEFT finds them by.
    saved: BTreeMap<String, String>,
}

impl<'a> Contents<'a> {
    fn of(source: &'a Source, names: NameLayout) -> Result<Self> {
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

    fn is_saved(&self, spec: &ParamSpec) -> bool {
        self.saved.keys().any(|module| is_within(&spec.name, module))
    }

    /// Refuses what the reader would ignore.
    fn check_reader(&self, reader: Reader) -> Result<()> {
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

    /// Returns the values of a base with the saved modules, without the other adapters.
    fn base(&self, group: &[Named]) -> Result<Vec<Tensor>> {
        let own = |(spec, _): &Named| match self.is_saved(spec) {
            true => self.source.merged(std::iter::once(spec)),
            false => self.source.plain(std::iter::once(spec)),
        };
        let values = group.iter().map(own).collect::<Result<Vec<_>>>()?;
        Ok(values.into_iter().flatten().collect())
    }

    /// Writes config and weights.
    fn write_adapter(&self, adapters: &PeftAdapters<'_>, request: &ExportRequest, base: Option<&str>, folder: &Path) -> Result<()> {
        let is_vllm = request.reader() == Reader::Vllm;
        let saved: BTreeSet<_> = match is_vllm {
            // They are in the base.
            true => BTreeSet::new(),
            false => self.saved.values().cloned().collect(),
        };
        let source = self.source;
        let spec = |name: &String| {
            let found = source.adapters.parameters.iter().find(|spec| spec.name == *name);
            found.cloned().ok_or_else(|| EngineError::Bug(format!("no parameter `{name}`")))
        };
        let mut named: Vec<Named> = Vec::new();
        let mut change = BTreeMap::new();
        let usual = adapters.usual();
        for (linear, adapter) in &self.linears {
            let module = adapters.module(linear);
            named.push((spec(&adapter.a)?, format!("{PREFIX}{module}.lora_A.weight")));
            let b = format!("{PREFIX}{module}.lora_B.weight");
            change.insert(named[named.len() - 1].1.clone(), Change::Rows(usual));
            change.insert(b.clone(), Change::Columns(usual, adapter.scale));
            named.push((spec(&adapter.b)?, b));
            if let Some(magnitude) = &adapter.magnitude {
                named.push((spec(magnitude)?, format!("{PREFIX}{module}.lora_magnitude_vector")));
            }
        }
        if !is_vllm {
            change.clear();
            let rows = source.rows.iter().filter(|spec| self.is_saved(spec));
            let name = |spec: &ParamSpec| format!("{PREFIX}{}", source.table.exported_name(adapters.names, &spec.name));
            named.extend(rows.map(|spec| (spec.clone(), name(spec))));
        }
        let kind = dtype(source, request.dtype).map(tensors::kind);
        tensors::write(
            folder,
            WEIGHTS,
            u64::MAX,
            &named,
            kind,
            &|group| {
                let read = |(spec, name): &Named| -> Result<Tensor> {
                    let values = match spec.part {
                        Part::Adapter => source.plain(std::iter::once(spec))?,
                        _ => source.merged(std::iter::once(spec))?,
                    };
                    let value = values.into_iter().next();
                    let value = value.ok_or_else(|| EngineError::Bug(format!("no value for `{name}`")))?;
                    change.get(name).map_or(Ok(value.shallow_clone()), |change| change.apply(&value))
                };
                group.iter().map(read).collect()
            },
            &|_| None,
        )?;
        let dropout = lora(source).map_or(0.0, |lora| lora.dropout);
        write_json(&folder.join(CONFIG), &adapters.config(dropout, &saved, base))
    }
}

/// Change of an adapter to the one rank and scale that vLLM has for all.
enum Change {
    /// Fills rows of A with 0.
    Rows(Usual),
    /// Fills columns of B with 0, and scales it; the number is the adapter's own scale.
    Columns(Usual, f64),
}

impl Change {
    fn apply(&self, tensor: &Tensor) -> Result<Tensor> {
        let fill = |dim: i64, usual: &Usual| -> Result<Tensor> {
            let missing = usual.rank as i64 - tensor.size()[dim as usize];
            if missing == 0 {
                return Ok(tensor.shallow_clone());
            }
            let mut shape = tensor.size();
            shape[dim as usize] = missing;
            let zeros = Tensor::f_zeros(&shape, (tensor.kind(), tensor.device()))?;
            Ok(Tensor::f_cat(&[tensor, &zeros], dim)?)
        };
        match self {
            Self::Rows(usual) => fill(0, usual),
            Self::Columns(usual, scale) => {
                let factor = scale / (usual.alpha / usual.rank as f64);
                let filled = fill(1, usual)?;
                Ok(if factor == 1.0 { filled } else { filled.f_mul_scalar(factor)? })
            }
        }
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

/// Returns the base model as PEFT records it: a folder that transformers can load.
fn base_name(base: &Base, notes: &mut Vec<String>) -> Option<String> {
    match base {
        Base::HuggingFace(folder) => Some(folder.display().to_string()),
        Base::Checkpoint(path) | Base::Rebased { checkpoint: path, .. } => {
            notes.push(format!(
                "PEFT loads it over the model of {}: export that with --format hf first",
                path.display()
            ));
            None
        }
        Base::Parts(_) | Base::Seed(_) => {
            notes.push("its base is in no folder: load it over an export of the same run at step 0, or use --format hf".to_owned());
            None
        }
    }
}
