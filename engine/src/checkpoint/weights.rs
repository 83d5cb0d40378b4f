//! Loads this rank's parameters from files or from a seed.

use super::adapter::Adapter;
use super::base::Base;
use super::folder::CheckpointFolder;
use super::opened_base::{OfModel, OpenBase, fresh_values};
use super::placement::{Placement, Values, take};
use super::trained_tensors::TrainedTensors;
use crate::error::Result;
use crate::parameters::Parameters;
use neva_layout::{ModelCache, ModelTable, ParamSpec, Part, is_trainable};
use neva_schemas::Finetune;

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
        let value = take(&mut values, spec)?;
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
    let of_model = OfModel {
        table,
        specs: &whole_model,
        finetune,
        cache,
    };
    let mut values = OpenBase::open(base, &model, of_model)?.read(&model, placement)?;
    values.append(&mut fresh_values(&adapters, finetune.trainer.seed, placement));
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
    let trained = TrainedTensors::open(checkpoint, run, specs)?;
    trained.read(specs.iter().filter(|spec| wanted(spec)), placement)
}
