//! The parameters of one chunk of layers: the run's, the reader's, the base's. Of an embedding only the canary's rows are in
//! memory.

use super::expected::Expected;
use super::reading::{Reading, told};
use crate::error::{EngineError, Result};
use crate::parameters::{Parameter, Parameters};
use crate::precision::compute_kind;
use crate::quantization::Nf4;
use neva_layout::{ChunkSpec, Cut, ParamSpec, ReaderSlot, is_quantized};
use std::collections::BTreeSet;
use tch::{Kind, Tensor};

/// Most values that are read at once, which is 128 MiB in fp32. A larger tensor is read alone.
const GROUP: usize = 32 << 20;

/// One chunk of a model that is checked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Chunk<'a> {
    pub(super) expected: &'a Expected<'a>,
    pub(super) reading: &'a Reading,
    pub(super) layers: &'a ChunkSpec,
    /// Token ids of the canary.
    pub(super) ids: &'a Tensor,
}

impl Chunk<'_> {
    /// Returns whether a parameter is an embedding, of which a few rows are used.
    fn is_wide(&self, spec: &ParamSpec) -> bool {
        self.layers.first && spec.cut == Cut::Vocab
    }

    /// Returns whether adapters change the chunk.
    pub(super) fn is_adapted(&self) -> bool {
        let mut adapters = self.expected.adapters.parameters.iter();
        adapters.any(|spec| self.layers.holds(spec))
    }

    fn is_trained(&self, spec: &ParamSpec) -> bool {
        self.expected.trained().contains(&spec.name)
    }

    /// Returns whether the run trained a parameter of the chunk itself.
    pub(super) fn has_trained(&self, run: &Parameters) -> bool {
        run.iter().any(|own| self.is_trained(&own.spec))
    }

    /// Splits the parameters of the chunk into groups that are read at once. An adapter is read with its weight.
    fn groups(&self) -> Vec<BTreeSet<&str>> {
        let linear = |spec: &ParamSpec| {
            spec.lora
                .as_ref()
                .and_then(|module| self.expected.adapters.linears.get(&module.linear))
        };
        let (mut groups, mut filled) = (Vec::new(), 0);
        let mut group = BTreeSet::new();
        for spec in self.expected.rows.iter().filter(|spec| self.layers.holds(spec)) {
            if !group.is_empty() && (filled + spec.numel() > GROUP || self.is_wide(spec)) {
                groups.push(std::mem::take(&mut group));
                filled = 0;
            }
            filled += spec.numel();
            group.insert(spec.name.as_str());
            if let Some(adapter) = linear(spec) {
                group.extend(
                    [Some(&adapter.a), Some(&adapter.b), adapter.magnitude.as_ref()]
                        .into_iter()
                        .flatten()
                        .map(String::as_str),
                );
            }
            if self.is_wide(spec) {
                filled = GROUP;
            }
        }
        groups.extend((!group.is_empty()).then_some(group));
        groups
    }

    /// Loads the run's parameters group by group, and passes each group to `compare`.
    pub(super) fn of_run(&self, compare: &mut dyn FnMut(&Parameters) -> Result<()>) -> Result<Parameters> {
        let mut run = Parameters::default();
        for group in self.groups() {
            let part = self.expected.of_run(&|spec| group.contains(spec.name.as_str()))?;
            compare(&part)?;
            for own in part.iter() {
                let tensor = match self.is_wide(&own.spec) {
                    true => rows(&own.tensor, self.ids)?,
                    false => own.tensor.shallow_clone(),
                };
                run.insert(parameter(&own.spec, tensor));
            }
        }
        Ok(run)
    }

    /// Returns the run's parameters with the values that it computed with, where it kept 4 bits.
    pub(super) fn in_four_bits(&self, run: &Parameters) -> Result<Parameters> {
        let finetune = &self.expected.finetune;
        let kind = compute_kind(finetune.trainer.precision());
        let mut parameters = Parameters::default();
        for Parameter { spec, tensor, .. } in run.iter() {
            let tensor = if is_quantized(spec, finetune) {
                let quantized = Nf4::quantize(&tensor.f_to_kind(kind)?)?;
                quantized.dequantize(kind)?.f_to_kind(Kind::Float)?
            } else {
                tensor.shallow_clone()
            };
            parameters.insert(parameter(spec, tensor));
        }
        Ok(parameters)
    }

    /// Returns those of the run's parameters that are read again: for the base those that were not trained, and, unless the
    /// export agrees with the run so far, those that are the `same` there.
    pub(super) fn used_again(&self, run: Parameters, agrees: bool, same: &BTreeSet<String>) -> Parameters {
        kept(run, &|spec| !self.is_trained(spec) || !agrees && same.contains(&spec.name))
    }

    /// Returns the parameters of the base: those of the run, but for what it trained.
    pub(super) fn of_base(&self, run: &Parameters) -> Result<Parameters> {
        let wanted = |spec: &ParamSpec| self.layers.holds(spec) && self.is_trained(spec);
        let mut parameters = Parameters::default();
        if self.expected.rows.iter().any(wanted) {
            parameters = self.expected.of_base(&wanted)?;
        }
        for row in self
            .expected
            .rows
            .iter()
            .filter(|row| self.layers.holds(row) && !self.is_trained(row))
        {
            parameters.insert(parameter(row, run.get(&row.name)?.tensor.shallow_clone()));
        }
        self.keep_rows(&mut parameters, &|spec| self.is_trained(spec))?;
        Ok(parameters)
    }

    /// Returns the parameters that the reader has. Those that are the `same` there come from the run.
    pub(super) fn written(&self, run: Parameters, same: &BTreeSet<String>) -> Result<Parameters> {
        let run = kept(run, &|spec| same.contains(&spec.name));
        let mut parameters = Parameters::default();
        for spec in self.expected.specs.iter().filter(|spec| self.layers.holds(spec)) {
            // Without a place it is merged.
            let Some(slot) = self.expected.slots_of(&spec.name).into_iter().next() else {
                continue;
            };
            let tensor = match run.find(&spec.name) {
                Some(own) => own.tensor.shallow_clone(),
                None => self.read(&slot, spec)?,
            };
            parameters.insert(parameter(spec, tensor));
        }
        self.keep_rows(&mut parameters, &|spec| !same.contains(&spec.name))?;
        Ok(parameters)
    }

    fn read(&self, slot: &ReaderSlot, spec: &ParamSpec) -> Result<Tensor> {
        let value = self.reading.read(slot)?;
        let value = value.ok_or_else(|| EngineError::Bug(format!("no value for `{}`", spec.name)))?;
        let value = value.f_to_kind(Kind::Float)?;
        let shape: Vec<_> = spec.shape.iter().map(|size| *size as i64).collect();
        let is_wider = self.expected.has_common_rank() && matches!(slot, ReaderSlot::A(_) | ReaderSlot::B(_));
        if value.size() == shape || is_wider {
            return Ok(value);
        }
        Err(EngineError::Weights {
            path: self.reading.path(slot).to_owned(),
            problems: vec![format!("{} has shape {:?}, not {shape:?}", told(slot), value.size())],
        })
    }

    /// Keeps only the canary's rows of the embeddings that are `wanted`.
    fn keep_rows(&self, parameters: &mut Parameters, wanted: &dyn Fn(&ParamSpec) -> bool) -> Result<()> {
        let sparse = |own: &Parameter| Ok(parameter(&own.spec, rows(&own.tensor, self.ids)?));
        let sparse = parameters
            .iter()
            .filter(|own| self.is_wide(&own.spec) && wanted(&own.spec))
            .map(sparse);
        for own in sparse.collect::<Result<Vec<_>>>()? {
            parameters.insert(own);
        }
        Ok(())
    }
}

/// Returns those parameters that are `wanted`.
fn kept(parameters: Parameters, wanted: &dyn Fn(&ParamSpec) -> bool) -> Parameters {
    let mut kept = Parameters::default();
    for Parameter { spec, tensor, .. } in parameters.iter().filter(|own| wanted(&own.spec)) {
        kept.insert(parameter(spec, tensor.shallow_clone()));
    }
    kept
}

/// Returns a matrix with the rows of token ids. The others are not set, and take no memory.
fn rows(matrix: &Tensor, ids: &Tensor) -> Result<Tensor> {
    // Positions of an image have negative ids, in whose place a row is read that has no effect.
    let ids = ids.f_flatten(0, -1)?.f_clamp_min(0)?;
    let mut sparse = matrix.f_empty_like()?;
    drop(sparse.f_index_copy_(0, &ids, &matrix.f_index_select(0, &ids)?)?);
    Ok(sparse)
}

fn parameter(spec: &ParamSpec, tensor: Tensor) -> Parameter {
    Parameter {
        spec: spec.clone(),
        tensor,
        trainable: false,
        quantized: None,
    }
}
