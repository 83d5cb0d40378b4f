//! Import of a model: it is read in any of the formats below, checked, and added to the model cache as `nemo://ORG/NAME`.
//!
//! ```text
//! source --found--> folder or file --plan--> files, tensors with their places --target--> staging directory --rename--> model
//! ```
//!
//! | source | what becomes of it |
//! |---|---|
//! | Hugging Face folder with the hub's names | its files, copied or linked |
//! | the same with other names, or pickles | safetensors with the hub's names (`check.rs`) |
//! | checkpoint of the original LLaVA repository | the same, with config, image token, vision encoder; adapters are merged (`original/`) |
//! | GGUF file of a language model | dequantized, with its tokenizer and chat template (`gguf.rs`) |
//!
//! A plan is a value: it holds names, sizes and headers of all files to write, and no tensor. Tensors are copied one by one.

mod check;
mod error;
mod gguf;
mod original;
mod plan;
mod source_kind;
mod sources;
mod target;
mod tensors;
mod weights;

use std::path::{Path, PathBuf};

use neva_layout::{ModelCache, model_differences};
use neva_schemas::Model;
use serde::Serialize;

pub use self::error::ImportError;
use self::{plan::Plan, sources::Sources, target::Target};
use crate::{environment, hub::Notice};

/// Options of an import.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImportOptions {
    /// The target folder; `None`: a folder of the model's name in the model cache.
    pub output: Option<PathBuf>,
    /// Replaces another model of this name.
    pub overwrite: bool,
    /// The language model of a checkpoint of the original LLaVA repository that has adapters or a projector only: a folder
    /// or an address. `None`: what the checkpoint names.
    pub base: Option<String>,
    /// The vision encoder of a checkpoint of the original LLaVA repository that has none: a folder or an address. `None`:
    /// what the checkpoint names.
    pub vision_tower: Option<String>,
}

/// Imports a model, as NeMo's `import_ckpt(model, source, output_path, overwrite)`. `source` is `hf://ORG/NAME[@REVISION]`,
/// a folder, or a file; `model` is the expected model, which is compared with the config of the source.
///
/// ```no_run
/// # fn example() -> Result<(), neva_run::ImportError> {
/// use neva_run::{ImportOptions, import_ckpt};
/// use neva_schemas::{LlavaModel, Model};
///
/// let imported = import_ckpt(&Model::Llava(LlavaModel::default()), "hf://llava-hf/llava-1.5-7b-hf", &ImportOptions::default())?;
/// println!("{}", imported.path.display());
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// The source cannot be read, is not complete or another model, or the target exists with other content.
pub fn import_ckpt(model: &Model, source: &str, options: &ImportOptions) -> Result<Imported, ImportError> {
    import(source, options, Some(model), &mut |text| tracing::info!("{text}"))
}

/// An imported model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Imported {
    /// Its source.
    pub source: String,
    /// Its folder.
    pub path: PathBuf,
    /// Its address in the model cache.
    pub address: Option<String>,
    /// The model cache.
    pub cache: PathBuf,
    /// `model`, `language model` or `vision encoder`.
    pub kind: String,
    /// `model_type` of its config.
    pub model_type: String,
    /// Number of parameters.
    pub parameters: u64,
    /// Size of its files in bytes.
    pub bytes: u64,
    /// It already existed.
    pub reused: bool,
    /// Changes to its tensors, for people; empty if they were copied as they are.
    pub converted: Vec<String>,
    /// Settings of its files that are not applied, and tensors that are ignored.
    pub warnings: Vec<String>,
}

/// Downloads the model if needed, checks it and writes it to the target.
///
/// # Errors
/// As [`import_ckpt`]. The target does not change.
pub(crate) fn import(source: &str, options: &ImportOptions, model: Option<&Model>, notice: Notice<'_>) -> Result<Imported, ImportError> {
    let cache = ModelCache::locate(environment::variable);
    let mut sources = Sources { cache: &cache, notice };
    let found = sources.find(source)?;
    let path = match (&options.output, &found.name) {
        (Some(output), _) => environment::expand_home(output),
        (None, Some(name)) => cache.path.join(name),
        (None, None) => return Err(ImportError::NoName { path: found.path }),
    };
    let plan = source_kind::plan(&found, options, &mut sources)?;
    if let Some(expected) = model {
        compare(&plan, expected, &found.path)?;
    }
    let target = Target {
        path: std::path::absolute(&path).map_err(|source| ImportError::io("find", &path, source))?,
        source: &found.folder,
        is_hub: found.is_hub,
    };
    let reused = target.put(&plan, options.overwrite)?;
    let in_cache = target
        .path
        .strip_prefix(&cache.path)
        .ok()
        .filter(|rest| rest.components().count() > 0);
    let address = in_cache.map(|rest| format!("nemo://{}", rest.display()));
    Ok(Imported {
        source: source.to_owned(),
        address,
        cache: cache.path.clone(),
        kind: plan.kind.clone(),
        model_type: plan.model_type.clone(),
        parameters: plan.parameters,
        bytes: plan.bytes()?,
        converted: plan.converted.clone(),
        warnings: plan.warnings.clone(),
        reused,
        path: target.path,
    })
}

/// Compares the model of a plan with the one that the caller expects.
fn compare(plan: &Plan, expected: &Model, path: &Path) -> Result<(), ImportError> {
    let problems = match &plan.read {
        Some(read) => model_differences(read, expected, path)
            .into_iter()
            .map(|problem| problem.message)
            .collect(),
        None => vec![format!("it is a {}, not {}", plan.kind, expected.target())],
    };
    if problems.is_empty() {
        return Ok(());
    }
    Err(ImportError::Content {
        path: path.to_owned(),
        problems,
        help: Some("pass the model that the source has".to_owned()),
    })
}

/// Returns the size of a file in bytes.
fn size_of(path: &Path) -> Result<u64, ImportError> {
    let data = std::fs::metadata(path).map_err(|source| ImportError::io("read", path, source))?;
    Ok(data.len())
}
