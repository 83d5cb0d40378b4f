//! Adapters in the format of Hugging Face's PEFT, with the other modules that the run trained.

use super::common_rank::CommonRank;
use super::companions::Companions;
use super::files::write_json;
use super::peft_config::PeftAdapters;
use super::peft_contents::PeftContents;
use super::source::Source;
use super::tensors::{self, Named, Origin};
use super::whole::{Form, WholeModel, dtype};
use super::{ExportRequest, NameLayout, Reader, Written};
use crate::checkpoint::{Base, ModelCache};
use crate::error::{EngineError, Result};
use neva_layout::{ParamSpec, Part};
use neva_schemas::{LoRA, Peft};
use neva_weights::Unsynced;
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
    let contents = PeftContents::of(source, request.names())?;
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
        let (mut notes, of_base) = model.write(&base, &|group| contents.base(group), &|spec| contents.base_extent(spec))?;
        let of_adapter = contents.write_adapter(&adapters, request, None, &adapter)?;
        notes.push(format!(
            "serve `{BASE}`, which has the trained modules, with the adapter in `{ADAPTER}`"
        ));
        return Ok(Written {
            model: Some(BASE),
            adapter: Some(ADAPTER),
            notes,
            unsynced: vec![of_base, of_adapter],
        });
    }
    let mut notes = Companions::write(source, cache, folder)?.notes;
    let base = base_name(&source.base, &mut notes);
    let unsynced = contents.write_adapter(&adapters, request, base.as_deref(), folder)?;
    Ok(Written {
        adapter: Some(""),
        notes,
        unsynced: vec![unsynced],
        ..Written::default()
    })
}

fn lora(source: &Source) -> Option<&LoRA> {
    source.finetune.peft.as_ref().map(Peft::lora)
}

impl PeftContents<'_> {
    /// Writes config and weights.
    fn write_adapter(&self, adapters: &PeftAdapters<'_>, request: &ExportRequest, base: Option<&str>, folder: &Path) -> Result<Unsynced> {
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
            change.insert(named[named.len() - 1].1.clone(), CommonRank::Rows(usual));
            change.insert(b.clone(), CommonRank::Columns(usual, adapter.scale));
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
        let read = |(spec, name): &Named| -> Result<Tensor> {
            let values = match spec.part {
                Part::Adapter => source.plain(std::iter::once(spec))?,
                _ => source.merged(std::iter::once(spec))?,
            };
            let value = values.into_iter().next();
            let value = value.ok_or_else(|| EngineError::Bug(format!("no value for `{name}`")))?;
            change.get(name).map_or(Ok(value.shallow_clone()), |change| change.apply(&value))
        };
        let origin = Origin {
            read: &|group| group.iter().map(read).collect(),
            locate: &|_| None,
            equal: &source.equal,
        };
        let unsynced = tensors::write(folder, WEIGHTS, u64::MAX, &named, kind, &origin)?;
        let dropout = lora(source).map_or(0.0, |lora| lora.dropout);
        write_json(&folder.join(CONFIG), &adapters.config(dropout, &saved, base))?;
        Ok(unsynced)
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
