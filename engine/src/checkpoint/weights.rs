//! Loads this rank's parameters from files or from a seed.

use super::adapter::Adapter;
use super::base::Base;
use super::folder::CheckpointFolder;
use super::hugging_face::{check_config, hugging_face_files};
use super::part::read_part;
use super::placement::{Placement, Values, all_finite, mismatches, read_all};
use super::safetensors_file::TensorFile;
use crate::error::{EngineError, Result};
use crate::parameters::Parameters;
use crate::random::fresh;
use neva_layout::{ModelCache, ModelTable, ParamSpec, Part, is_trainable};
use neva_schemas::Finetune;
use std::collections::BTreeMap;
use std::path::Path;

/// Sources of a run's parameters, highest priority first.
#[derive(Debug, Clone, Copy)]
pub struct Sources<'a> {
    /// The checkpoint that the run resumes from.
    pub checkpoint: Option<&'a CheckpointFolder>,
    /// The adapter that the run starts with.
    pub adapter: Option<&'a Adapter>,
    /// Source of all other parameters.
    pub base: &'a Base,
    /// Cache in which the base of a base is found.
    pub cache: &'a ModelCache,
}

/// Loads one rank's parameters of a run: the `wanted` ones of `specs`, which are all parameters of the model of `table`.
///
/// # Errors
/// A file is missing, not whole, or does not fit the model: then every missing, unknown or misshapen tensor is listed.
/// So is every tensor with NaN or infinite values.
pub fn load_parameters(
    table: &ModelTable,
    specs: &[ParamSpec],
    wanted: &dyn Fn(&ParamSpec) -> bool,
    finetune: &Finetune,
    sources: Sources<'_>,
    placement: Placement,
) -> Result<Parameters> {
    let mut values = match sources.checkpoint {
        Some(checkpoint) => trained_values(checkpoint, finetune, specs, wanted, placement)?,
        None => Values::new(),
    };
    let adapter = match sources.adapter {
        Some(Adapter::Checkpoint(checkpoint)) => trained_values(checkpoint, &checkpoint.run.finetune, specs, wanted, placement)?,
        Some(Adapter::Peft(folder)) => folder.read(table, specs, wanted, finetune, placement)?,
        None => Values::new(),
    };
    for (name, value) in adapter {
        values.entry(name).or_insert(value);
    }
    let own = || specs.iter().filter(|spec| wanted(spec));
    let rest: Vec<_> = own().filter(|spec| !values.contains_key(&spec.name)).cloned().collect();
    if !rest.is_empty() {
        values.append(&mut base_values(table, &rest, specs, finetune, sources, placement)?);
    }
    let mut parameters = Parameters::default();
    for adapter in rest.iter().filter(|spec| spec.part == Part::Adapter) {
        parameters.mark_fresh(&adapter.name);
    }
    for spec in own() {
        let value = values
            .remove(&spec.name)
            .ok_or_else(|| EngineError::Bug(format!("no value for `{}`", spec.name)))?;
        parameters.insert(placement.place(spec, value, is_trainable(spec, finetune)));
    }
    Ok(parameters)
}

/// Reads `wanted`, a subset of `specs`, from the base. Adapters are never in a base: they get fresh values.
pub(super) fn base_values(
    table: &ModelTable,
    wanted: &[ParamSpec],
    specs: &[ParamSpec],
    finetune: &Finetune,
    sources: Sources<'_>,
    placement: Placement,
) -> Result<Values> {
    let Sources { base, cache, .. } = sources;
    let (adapters, model): (Vec<_>, Vec<_>) = wanted.iter().cloned().partition(|spec| spec.part == Part::Adapter);
    let whole_model: Vec<_> = specs.iter().filter(|spec| spec.part != Part::Adapter).cloned().collect();
    let fresh_values = |specs: &[ParamSpec], seed: u64| -> Values {
        specs
            .iter()
            .map(|spec| (spec.name.clone(), fresh(spec, seed, placement.tp_rank, placement.tp)))
            .collect()
    };
    let mut values = match base {
        Base::Seed(seed) => fresh_values(&model, *seed),
        Base::Parts(parts) => {
            let (mut values, mut rest) = (Values::new(), Vec::new());
            for part in [Part::Language, Part::Projection, Part::Vision] {
                let own: Vec<_> = model.iter().filter(|spec| spec.part == part).cloned().collect();
                match parts.of(part) {
                    _ if own.is_empty() => {}
                    Some(Base::HuggingFace(folder)) => {
                        values.append(&mut read_part(table, folder, part, &own, &whole_model, placement)?);
                    }
                    Some(base) => values.append(&mut base_values(
                        table,
                        &own,
                        specs,
                        finetune,
                        Sources { base, ..sources },
                        placement,
                    )?),
                    None => rest.extend(own),
                }
            }
            if !rest.is_empty() {
                let base = &parts.rest;
                values.append(&mut base_values(
                    table,
                    &rest,
                    specs,
                    finetune,
                    Sources { base, ..sources },
                    placement,
                )?);
            }
            values
        }
        Base::HuggingFace(folder) => {
            check_config(folder, &finetune.model, table.families())?;
            read_hugging_face(table, folder, &model, &whole_model, placement)?
        }
        Base::Checkpoint(path) => {
            let checkpoint = CheckpointFolder::open(path)?;
            // Parameters that the base's run did not train come from its own base.
            let own = &checkpoint.run.finetune;
            let wanted = |spec: &ParamSpec| model.iter().any(|wanted| wanted.name == spec.name);
            let mut values = trained_values(&checkpoint, own, &whole_model, &wanted, placement)?;
            let rest: Vec<_> = model.iter().filter(|spec| !values.contains_key(&spec.name)).cloned().collect();
            if !rest.is_empty() {
                let base = &Base::of(own, cache)?;
                let sources = Sources { base, ..sources };
                values.append(&mut base_values(table, &rest, &whole_model, own, sources, placement)?);
            }
            values
        }
    };
    values.append(&mut fresh_values(&adapters, finetune.trainer.seed));
    Ok(values)
}

/// Reads those of `specs` that `run` trains and that are `wanted` from a checkpoint, which must hold exactly the
/// parameters that the run trains.
fn trained_values(
    checkpoint: &CheckpointFolder,
    run: &Finetune,
    specs: &[ParamSpec],
    wanted: &dyn Fn(&ParamSpec) -> bool,
    placement: Placement,
) -> Result<Values> {
    let trained: Vec<_> = specs.iter().filter(|spec| is_trainable(spec, run)).cloned().collect();
    let tensors = checkpoint.model()?;
    let names = tensors
        .shapes()
        .map(|(name, shape)| (name.to_owned(), (0, name.to_owned(), shape.to_vec())))
        .collect();
    let problems = mismatches(&names, &trained);
    if !problems.is_empty() {
        return Err(EngineError::Weights {
            path: tensors.path().to_owned(),
            problems,
        });
    }
    let read = |spec: &ParamSpec| {
        let value = placement.local_shard(spec, |window| tensors.read(&spec.name, window))?;
        Ok((spec.name.clone(), value))
    };
    all_finite(tensors.path(), trained.iter().filter(|spec| wanted(spec)).map(read))
}

/// Reads `wanted` from a Hugging Face folder, which must hold all of `specs`: in one file or several with an index, under
/// any accepted spelling of the names. Tensors that are not part of the model are skipped, with a warning.
fn read_hugging_face(table: &ModelTable, folder: &Path, wanted: &[ParamSpec], specs: &[ParamSpec], placement: Placement) -> Result<Values> {
    let files = hugging_face_files(folder)?
        .iter()
        .map(|path| TensorFile::open(path))
        .collect::<Result<Vec<_>>>()?;
    let mut names = BTreeMap::new();
    let (mut problems, mut skipped) = (Vec::new(), Vec::new());
    for (index, file) in files.iter().enumerate() {
        for (name, shape) in file.tensors() {
            if table.is_derived(&name) {
                continue;
            }
            match table.canonical_name(&name) {
                // Some files hold a tied head nevertheless.
                Some(canonical) if table.is_tied_head(&canonical) => {}
                Some(canonical) if !names.contains_key(&canonical) => {
                    names.insert(canonical, (index, name, shape));
                }
                Some(canonical) => problems.push(format!("`{name}` is a second tensor for `{canonical}`")),
                None => skipped.push(format!("`{name}`")),
            }
        }
    }
    let mismatches = mismatches(&names, specs);
    if problems.is_empty() && mismatches.is_empty() {
        // Weights may be read in several turns, of which one warns.
        let is_first = |spec: &ParamSpec| specs.first().is_some_and(|first| first.name == spec.name);
        if !skipped.is_empty() && wanted.iter().any(is_first) {
            tracing::warn!(
                "{}: skipped tensors that are not part of the model: {}",
                folder.display(),
                skipped.join(", ")
            );
        }
        return read_all(folder, &files, &names, wanted, specs, placement);
    }
    problems.extend(skipped.iter().map(|name| format!("{name} is not a tensor of the model")));
    problems.extend(mismatches);
    Err(EngineError::Weights {
        path: folder.to_owned(),
        problems,
    })
}
