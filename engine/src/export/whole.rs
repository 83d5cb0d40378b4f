//! Whole models: the layouts of Hugging Face's transformers and of LLaVA's own code.

use super::companions::Companions;
use super::files::write_json;
use super::source::Source;
use super::tensors::{self, Locate, Named, Origin, Read};
use super::{ExportDtype, ExportFormat, ExportRequest, NameLayout, Written};
use crate::checkpoint::ModelCache;
use crate::error::{EngineError, Result};
use neva_layout::ParamSpec;
use neva_schemas::Problem;
use neva_weights::Unsynced;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;

/// Writes a whole model, adapters merged.
pub(super) fn write(source: &Source, request: &ExportRequest, cache: &ModelCache, folder: &Path) -> Result<Written> {
    let format = match request.format {
        ExportFormat::Llava => Form::LlavaCode,
        _ => Form::HuggingFace(request.names()),
    };
    let covered = source.rows.iter().flat_map(|spec| source.parts(spec));
    check_complete(source, covered)?;
    let model = WholeModel {
        source,
        cache,
        form: format,
        dtype: dtype(source, request.dtype),
        max_shard_size: request.max_shard_size,
    };
    let (notes, unsynced) = model.write(folder, &|group| source.merged(group.iter().map(|(spec, _)| spec)), &|spec| {
        source.extent(spec)
    })?;
    Ok(Written {
        model: Some(""),
        notes,
        unsynced: vec![unsynced],
        ..Written::default()
    })
}

/// Layout of a whole model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// transformers, with names of a layout.
    HuggingFace(NameLayout),
    /// LLaVA's own code.
    LlavaCode,
}

/// A whole model to write.
#[derive(Debug)]
pub(super) struct WholeModel<'a> {
    /// The model.
    pub(super) source: &'a Source,
    /// Cache in which the base of a base is found.
    pub(super) cache: &'a ModelCache,
    /// Layout.
    pub(super) form: Form,
    /// Data type; `None`: that of the files.
    pub(super) dtype: Option<ExportDtype>,
    /// Most bytes of tensors in one file.
    pub(super) max_shard_size: u64,
}

impl WholeModel<'_> {
    /// Writes all files to `folder`. `read` returns the values of parameters, and `locate` the
    /// places of those that are copied as they are. Returns sentences for the user, and the files that may not be on disk yet.
    pub(super) fn write(&self, folder: &Path, read: &Read<'_>, locate: &Locate<'_>) -> Result<(Vec<String>, Unsynced)> {
        let Self { source, form, .. } = self;
        let mut own = match form {
            Form::HuggingFace(_) => None,
            Form::LlavaCode => Some(source.table.llava_code_config().map_err(refused)?),
        };
        let mut companions = Companions::write(source, self.cache, folder)?;
        let mut notes = std::mem::take(&mut companions.notes);
        if own.is_none() {
            notes.extend(source.table.unknown_to_transformers());
        }
        let name = |spec: &ParamSpec| match form {
            Form::HuggingFace(names) => Some(source.table.exported_name(*names, &spec.name)),
            Form::LlavaCode => source.table.llava_code_name(&spec.name),
        };
        let named = source.rows.iter().map(|spec| {
            let name = name(spec).ok_or_else(|| refused(format!("LLaVA's own code has no tensor `{}`", spec.name)))?;
            Ok((spec.clone(), name))
        });
        let named = named.collect::<Result<Vec<Named>>>()?;
        let kind = self.dtype.map(tensors::kind);
        let origin = Origin {
            read,
            locate,
            equal: &source.equal,
        };
        let unsynced = tensors::write(folder, "model", self.max_shard_size, &named, kind, &origin)?;
        let mut config = companions.config(source, self.cache)?;
        if let Some(own) = &mut own {
            // The ids of special tokens are in the config of the language model there.
            let text = config.get("text_config").cloned().unwrap_or_default();
            for name in ["bos_token_id", "eos_token_id", "pad_token_id"] {
                if let Some(id) = text.get(name) {
                    own[name] = id.clone();
                }
            }
            config = own.take();
        }
        set_dtype(&mut config, self.dtype);
        // Without it no program takes the folder for a model: it is the last file.
        write_json(&folder.join("config.json"), &config)?;
        Ok((notes, unsynced))
    }
}

/// Returns the data type of an export: the requested one, or that of the run's computation. A folder keeps its own.
pub(super) fn dtype(source: &Source, requested: Option<ExportDtype>) -> Option<ExportDtype> {
    requested.or_else(|| source.checkpoint.as_ref().map(|_| tensors::computed(&source.finetune)))
}

/// Writes the data type into a config; transformers 5.x calls `torch_dtype` `dtype`.
fn set_dtype(config: &mut Value, dtype: Option<ExportDtype>) {
    let (Some(config), Some(dtype)) = (config.as_object_mut(), dtype) else {
        return;
    };
    let name = if config.contains_key("dtype") && !config.contains_key("torch_dtype") {
        "dtype"
    } else {
        "torch_dtype"
    };
    config.insert(name.to_owned(), dtype.word().into());
}

/// Checks that an export holds every tensor that the run trained.
///
/// # Errors
/// It misses some: all are named.
pub(super) fn check_complete(source: &Source, covered: impl Iterator<Item = String>) -> Result<()> {
    let covered: BTreeSet<String> = covered.collect();
    let trained = source.trained();
    let missed = trained.into_iter().filter(|name| !covered.contains(*name));
    let problems: Vec<_> = missed
        .map(|name| format!("`{name}` was trained, and no tensor of the export holds it"))
        .collect();
    if problems.is_empty() {
        return Ok(());
    }
    Err(EngineError::Weights {
        path: source.path.clone(),
        problems,
    })
}

fn refused(message: String) -> EngineError {
    EngineError::Run(vec![Problem::error("--format", message).help("use --format hf")])
}
