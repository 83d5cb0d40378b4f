//! Merges one or several adapters into their base: `W + sum of weight * (W' - W)`, where W' is the weight with one adapter.

use super::check::{Checked, Logits, Subject, check, check_formula};
use super::source::Source;
use super::staging::Staging;
use super::tensors::Named;
use super::whole::{Form, WholeModel, check_complete};
use super::{ExportFormat, Exported, MergeRequest, Reader, WeightedAdapter};
use crate::checkpoint::{CheckpointFolder, Extent, ModelCache, PeftFolder};
use crate::error::{EngineError, Result};
use crate::model::Models;
use neva_layout::{Families, ParamSpec};
use neva_schemas::Problem;
use std::path::{Path, PathBuf};
use std::time::Instant;
use tch::{Kind, Tensor};

/// The option that names adapters.
const OPTION: &str = "--adapter";

/// Merges adapters, and the other tensors that their runs trained, into the base. Writes a folder of transformers.
///
/// # Errors
/// The adapters belong to another base, a trained tensor would be missing, or a file cannot be read or written. Nothing is
/// left behind.
pub fn merge(request: &MergeRequest, models: &Models, cache: &ModelCache) -> Result<Exported> {
    if request.reader == Reader::Peft {
        return Err(EngineError::Run(vec![
            Problem::error("--for", "PEFT reads adapters, and a merged model has none").help("use --for transformers, or --for vllm"),
        ]));
    }
    let merge = Merge::open(request, models.families(), cache)?;
    let staging = Staging::create(&request.out, request.overwrite, merge.folders())?;
    let model = WholeModel {
        source: merge.described(),
        cache,
        form: Form::HuggingFace(request.names),
        dtype: request.dtype,
        max_shard_size: request.max_shard_size,
    };
    let started = Instant::now();
    let (notes, unsynced) = model.write(staging.folder(), &|group| merge.values(group), &|spec| merge.unchanged(spec))?;
    let write_time = started.elapsed();
    let checked = merge.check(request, staging.folder(), models, cache)?;
    let check_time = started.elapsed().saturating_sub(write_time);
    unsynced.finish()?;
    let dir = staging.publish()?;
    Ok(Exported {
        format: ExportFormat::Hf,
        names: request.names,
        reader: request.reader,
        model: Some(dir.clone()),
        adapter: None,
        notes,
        checked,
        write_time,
        check_time,
        dir,
    })
}

/// Checks a model that [`merge`] wrote for this request.
///
/// # Errors
/// A file is missing, or the reader would load other values: everything is listed.
pub fn check_merge(request: &MergeRequest, models: &Models, cache: &ModelCache) -> Result<Checked> {
    Merge::open(request, models.families(), cache)?.check(request, &request.out, models, cache)
}

/// Checks that the path of an adapter exists, and is no whole model.
fn check_path(path: &Path) -> Result<()> {
    let (message, help) = if !path.exists() {
        (
            format!("{} does not exist", path.display()),
            "name a checkpoint or a folder of PEFT, with a weight as in adapter=0.5",
        )
    } else if !PeftFolder::is_peft(path) && !CheckpointFolder::is_checkpoint(path) && path.join("config.json").is_file() {
        (
            format!("{} holds a whole model, not adapters", path.display()),
            "name the model with --base, and a checkpoint or a folder of PEFT with --adapter",
        )
    } else {
        return Ok(());
    };
    Err(EngineError::Run(vec![Problem::error(OPTION, message).help(help)]))
}

/// Opened adapters and their base.
struct Merge {
    base: Source,
    adapters: Vec<(f64, Source)>,
}

impl Merge {
    /// Returns the folders that are read.
    fn folders(&self) -> impl Iterator<Item = &Path> {
        let adapters = self.adapters.iter().map(|(_, adapter)| adapter);
        std::iter::once(&self.base).chain(adapters).flat_map(Source::folders)
    }

    fn open(request: &MergeRequest, families: &Families, cache: &ModelCache) -> Result<Self> {
        let Some(first) = request.adapters.first() else {
            return Err(EngineError::Run(vec![Problem::error(OPTION, "no adapter is named")]));
        };
        request.adapters.iter().try_for_each(|adapter| check_path(&adapter.path))?;
        let given: Vec<_> = request.base.iter().cloned().collect();
        let base = match &request.base {
            Some(base) => Source::open(base, &[], families, cache)?,
            None if PeftFolder::is_peft(&first.path) => Source::open(&recorded_base(&first.path, cache)?, &[], families, cache)?,
            None => Source::open(&first.path, &[], families, cache)?.base(families, cache)?,
        };
        let open = |adapter: &WeightedAdapter| -> Result<(f64, Source)> {
            let WeightedAdapter { path, weight } = adapter;
            let source = if PeftFolder::is_peft(path) {
                base.with_peft(&PeftFolder::open(path, OPTION)?, families, cache)?
            } else {
                Source::open(path, &given, families, cache)?
            };
            check_adapter(&source, &base)?;
            Ok((*weight, source))
        };
        let adapters = request.adapters.iter().map(open).collect::<Result<Vec<_>>>()?;
        check_bases(&adapters)?;
        Ok(Self { base, adapters })
    }

    /// Checks what was written: keys, values and logits of a run that is merged alone; keys and values of others, whose logits
    /// no run has.
    fn check(&self, request: &MergeRequest, folder: &Path, models: &Models, cache: &ModelCache) -> Result<Checked> {
        let run = match &self.adapters[..] {
            [(weight, source)] if *weight == 1.0 && source.checkpoint.is_some() => Some(source),
            _ => None,
        };
        let source = run.unwrap_or(&self.base);
        let subject = Subject {
            dir: &request.out,
            model: Some(folder),
            adapter: None,
            form: (ExportFormat::Hf, request.names, request.reader),
            finetune: &source.finetune,
            checkpoint: source.checkpoint.as_ref(),
            base: &source.base,
            source,
        };
        match run {
            Some(_) => check(&subject, Logits::IfNeeded, models, cache).map(|(checked, _)| checked),
            None => check_formula(&subject, &|spec| self.expected(spec), models, cache),
        }
    }

    /// Returns the value of a parameter, in the base's data type, and whether an adapter changes it.
    fn expected(&self, spec: &ParamSpec) -> Result<(Tensor, bool)> {
        let is_changed = self.adapters.iter().any(|(_, source)| source.changes(spec));
        let value = self.values(&[(spec.clone(), String::new())])?.pop();
        let value = value.ok_or_else(|| EngineError::Bug(format!("no value for `{}`", spec.name)))?;
        Ok((value, is_changed))
    }

    /// Returns the source of the files beside the weights: the last run, or the base.
    fn described(&self) -> &Source {
        let runs = self.adapters.iter().map(|(_, source)| source);
        runs.rev().find(|source| source.checkpoint.is_some()).unwrap_or(&self.base)
    }

    /// Returns where a parameter lies that no adapter changes.
    fn unchanged(&self, spec: &ParamSpec) -> Option<Extent> {
        let is_changed = self.adapters.iter().any(|(_, source)| source.changes(spec));
        self.base.extent(spec).filter(|_| !is_changed && !self.base.changes(spec))
    }

    /// Returns merged values in the base's data types.
    fn values(&self, group: &[Named]) -> Result<Vec<Tensor>> {
        let value = |(spec, plain): (&ParamSpec, Tensor)| -> Result<Tensor> {
            let kind = plain.kind();
            let touching: Vec<_> = self.adapters.iter().filter(|(_, source)| source.changes(spec)).collect();
            let adapted = |source: &Source| -> Result<Tensor> {
                let mut values = source.merged(std::iter::once(spec))?;
                let value = values
                    .pop()
                    .ok_or_else(|| EngineError::Bug(format!("no value for `{}`", spec.name)))?;
                Ok(value.f_to_kind(Kind::Float)?)
            };
            let merged = match touching[..] {
                [] => return Ok(plain),
                [(weight, source)] if *weight == 1.0 => adapted(source)?,
                _ => {
                    let plain = plain.f_to_kind(Kind::Float)?;
                    let mut sum = plain.shallow_clone();
                    for (weight, source) in touching {
                        sum = sum.f_add(&adapted(source)?.f_sub(&plain)?.f_mul_scalar(*weight)?)?;
                    }
                    sum
                }
            };
            Ok(merged.f_to_kind(kind)?)
        };
        let specs = group.iter().map(|(spec, _)| spec);
        let plain = self.base.plain(specs.clone())?;
        specs.zip(plain).map(value).collect()
    }
}

/// Returns the base that an `adapter_config.json` names, if it is a folder.
fn recorded_base(adapter: &Path, cache: &ModelCache) -> Result<PathBuf> {
    let folder = PeftFolder::open(adapter, OPTION)?;
    let recorded = folder.config.base.as_deref().map(|base| cache.path_of(base));
    recorded.filter(|base| base.is_dir()).ok_or_else(|| {
        let base = folder.config.base.as_deref().unwrap_or("no base");
        let message = format!("the adapter in {} names {base:?}, which is not a folder here", adapter.display());
        EngineError::Run(vec![
            Problem::error("--base", message).help("name the folder of its base: --base DIR"),
        ])
    })
}

/// Checks that an adapter is of the base's model, and that nothing that its run trained would be lost.
fn check_adapter(source: &Source, base: &Source) -> Result<()> {
    let shape = |source: &Source| -> Vec<(String, Vec<usize>)> {
        let rows = source.rows.iter();
        rows.map(|spec| (spec.name.clone(), spec.shape.clone())).collect()
    };
    if shape(source) != shape(base) {
        let message = format!("{} is of another model than {}", source.path.display(), base.path.display());
        return Err(EngineError::Run(vec![
            Problem::error(OPTION, message).help("merge adapters of one base"),
        ]));
    }
    check_complete(source, source.rows.iter().flat_map(|spec| source.parts(spec)))
}

/// Checks that checkpoints were trained on the same base.
fn check_bases(adapters: &[(f64, Source)]) -> Result<()> {
    let checkpoints: Vec<&CheckpointFolder> = adapters.iter().filter_map(|(_, source)| source.checkpoint.as_ref()).collect();
    let Some((first, others)) = checkpoints.split_first() else {
        return Ok(());
    };
    match others.iter().find(|other| !other.state.base.same_weights(&first.state.base)) {
        None => Ok(()),
        Some(other) => {
            let (a, b) = (first.path.display(), other.path.display());
            let message = format!("{a} was trained on {}, {b} on {}", first.state.base, other.state.base);
            Err(EngineError::Run(vec![
                Problem::error(OPTION, message).help("merge adapters of one base"),
            ]))
        }
    }
}
