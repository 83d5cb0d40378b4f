//! Compares trained tensors and canary logits of the run, of what was written, and of the base, layer by layer.

use super::adapter_config::reader_adapters;
use super::canary::canary;
use super::expected::Expected;
use super::forward::{chunks, forward};
use super::reading::{Reading, told};
use super::{CanaryTensors, Subject};
use crate::error::{EngineError, Result};
use crate::model::Models;
use crate::parameters::{Parameter, Parameters};
use neva_layout::{Adapters, Cut, LinearAdapter, ModelTable, ParamSpec, ReaderSlot};
use std::collections::BTreeSet;
use tch::{Kind, Tensor};

/// Largest differences of logits, and differences of values.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) from_run: f64,
    pub(super) from_base: Option<f64>,
    /// Largest difference between the run's logits and the base's.
    run_from_base: Option<f64>,
    /// Largest logit of the run.
    largest: f64,
    /// Least precise kind of the written tensors.
    pub(super) kind: Kind,
    pub(super) values: Vec<String>,
    pub(super) canary: CanaryTensors,
    /// The run's adapters with the scales that the reader computes.
    pub(super) adapters: Adapters,
}

/// Largest difference of logits from the run's, relative to the largest logit, for weights that are stored in a kind.
pub(super) fn bound(kind: Kind) -> f64 {
    match kind {
        Kind::BFloat16 => 3e-2,
        Kind::Half => 5e-3,
        _ => 1e-4,
    }
}

impl Found {
    /// Returns the differences that are not explained by rounding.
    pub(super) fn problems(&self) -> Vec<String> {
        let mut problems = self.values.clone();
        let bound = bound(self.kind) * self.largest.max(1.0);
        if self.from_run > bound {
            problems.push(format!(
                "its canary logits differ by {:.1e} from the run's, the bound is {bound:.1e}",
                self.from_run
            ));
        }
        // Differences that rounding hides say nothing.
        if let (Some(export), Some(run)) = (self.from_base, self.run_from_base)
            && run > 1e-5 * self.largest.max(1.0)
            && export < 0.5 * run
        {
            problems.push(format!(
                "its canary logits differ by only {export:.1e} from the base's, the run's by {run:.1e}: what was trained has no effect"
            ));
        }
        problems
    }
}

pub(super) fn of_all(
    subject: &Subject<'_>,
    table: &ModelTable,
    expected: &Expected<'_>,
    reading: &Reading,
    models: &Models,
) -> Result<Found> {
    tch::no_grad(|| {
        let batch = canary(&table.description);
        let (own, none) = (&expected.adapters, Adapters::default());
        let adapters = reader_adapters(subject, expected)?;
        let mut found = Found {
            from_run: 0.0,
            from_base: None,
            run_from_base: None,
            largest: 0.0,
            kind: Kind::Float,
            values: Vec::new(),
            canary: Vec::new(),
            adapters: adapters.clone(),
        };
        let mut compares_base = expected.has_base();
        let mut hidden: [Option<Tensor>; 3] = [None, None, None];
        // Whether export and base have computed the same as the run so far.
        let mut agree = [true; 3];
        for chunk in chunks(table) {
            let place = (models, table, &chunk);
            let mut step = |index: usize, parameters: &Parameters, adapters: &Adapters| -> Result<()> {
                hidden[index] = Some(forward(place, (parameters, adapters), &batch, hidden[index].as_ref())?);
                Ok(())
            };
            let holds = |spec: &ParamSpec| chunk.holds(spec);
            let is_adapted = own.parameters.iter().any(holds);
            let is_trained = |spec: &ParamSpec| expected.trained().contains(&spec.name);
            // Of an embedding only the canary's rows are kept.
            let is_wide = |spec: &ParamSpec| chunk.first && spec.cut == Cut::Vocab;
            let (mut run, mut same) = (Parameters::default(), BTreeSet::new());
            for wide in [true, false] {
                let group = |spec: &ParamSpec| holds(spec) && is_wide(spec) == wide;
                if !expected.specs.iter().any(group) {
                    continue;
                }
                let part = expected.of_run(&group)?;
                same.append(&mut found.compare(expected, reading, &part)?);
                for Parameter { spec, tensor, .. } in part.iter() {
                    let tensor = if wide {
                        rows(tensor, &batch.input_ids_bs)?
                    } else {
                        tensor.shallow_clone()
                    };
                    run.insert(parameter(spec, tensor));
                }
            }
            step(0, &run, own)?;
            agree[1] &= !is_adapted && run.iter().all(|own| same.contains(&own.spec.name));
            agree[2] &= !is_adapted && !run.iter().any(|own| is_trained(&own.spec));
            // What is not used again makes room.
            run = kept(run, &|spec| !is_trained(spec) || !agree[1] && same.contains(&spec.name));
            if compares_base && !agree[2] {
                match base(expected, &run, &holds) {
                    Ok(mut base) => {
                        keep_rows(&mut base, &|spec| is_wide(spec) && is_trained(spec), &batch.input_ids_bs)?;
                        step(2, &base, &none)?;
                    }
                    Err(error) => {
                        tracing::warn!("the export is not compared with its base: {error}");
                        compares_base = false;
                    }
                }
            }
            if !agree[1] {
                let run = kept(run, &|spec| same.contains(&spec.name));
                let mut written = written(expected, reading, &holds, &run)?;
                keep_rows(
                    &mut written,
                    &|spec| is_wide(spec) && !same.contains(&spec.name),
                    &batch.input_ids_bs,
                )?;
                step(1, &written, &adapters)?;
            }
            // The same parameters of the same input give the same output.
            for index in [1, 2].into_iter().filter(|index| agree[*index]) {
                hidden[index] = hidden[0].as_ref().map(Tensor::shallow_clone);
            }
        }
        let [run, export, base] = hidden;
        let (run, export) = run.zip(export).ok_or_else(|| EngineError::Bug("a model without layers".into()))?;
        found.largest = run.abs().max().double_value(&[]);
        found.from_run = largest(&export, &run);
        if let Some(base) = base.filter(|_| compares_base) {
            found.from_base = Some(largest(&export, &base));
            found.run_from_base = Some(largest(&run, &base));
        }
        found.canary = vec![("input_ids".to_owned(), batch.input_ids_bs), ("logits".to_owned(), run)];
        found.canary.extend(batch.pixels.map(|pixels| ("pixel_values".to_owned(), pixels)));
        Ok(found)
    })
}

/// Returns the largest difference; NaN counts as infinite.
pub(super) fn largest(a: &Tensor, b: &Tensor) -> f64 {
    let difference = (a - b).abs().max().double_value(&[]);
    if difference.is_nan() { f64::INFINITY } else { difference }
}

/// Returns the parameters of the base: those of the run, but for what it trained.
fn base(expected: &Expected<'_>, run: &Parameters, holds: &dyn Fn(&ParamSpec) -> bool) -> Result<Parameters> {
    let is_trained = |spec: &ParamSpec| expected.trained().contains(&spec.name);
    let wanted = |spec: &ParamSpec| holds(spec) && is_trained(spec);
    let mut parameters = Parameters::default();
    if expected.rows.iter().any(wanted) {
        parameters = expected.of_base(&wanted)?;
    }
    for row in expected.rows.iter().filter(|row| holds(row) && !is_trained(row)) {
        parameters.insert(parameter(row, run.get(&row.name)?.tensor.shallow_clone()));
    }
    Ok(parameters)
}

/// Returns those parameters that are `wanted`.
fn kept(parameters: Parameters, wanted: &dyn Fn(&ParamSpec) -> bool) -> Parameters {
    let mut kept = Parameters::default();
    for Parameter { spec, tensor, .. } in parameters.iter().filter(|own| wanted(&own.spec)) {
        kept.insert(parameter(spec, tensor.shallow_clone()));
    }
    kept
}

/// Keeps only the rows of token ids in the matrices that are `wanted`.
fn keep_rows(parameters: &mut Parameters, wanted: &dyn Fn(&ParamSpec) -> bool, ids: &Tensor) -> Result<()> {
    let sparse = |own: &Parameter| Ok(parameter(&own.spec, rows(&own.tensor, ids)?));
    let sparse = parameters.iter().filter(|own| wanted(&own.spec)).map(sparse);
    for own in sparse.collect::<Result<Vec<_>>>()? {
        parameters.insert(own);
    }
    Ok(())
}

/// Returns a matrix with the rows of token ids. The others are not set, and take no memory.
fn rows(matrix: &Tensor, ids: &Tensor) -> Result<Tensor> {
    // Positions of an image have negative ids, in whose place a row is read that has no effect.
    let ids = ids.f_flatten(0, -1)?.f_clamp_min(0)?;
    let mut sparse = matrix.f_empty_like()?;
    drop(sparse.f_index_copy_(0, &ids, &matrix.f_index_select(0, &ids)?)?);
    Ok(sparse)
}

/// Returns the parameters that the reader has. `run` has those that are the same there.
fn written(expected: &Expected<'_>, reading: &Reading, holds: &dyn Fn(&ParamSpec) -> bool, run: &Parameters) -> Result<Parameters> {
    let mut parameters = Parameters::default();
    for spec in expected.specs.iter().filter(|spec| holds(spec)) {
        // Without a place it is merged.
        let Some(slot) = slots_of(expected, &spec.name).into_iter().next() else {
            continue;
        };
        if let Some(own) = run.find(&spec.name) {
            parameters.insert(parameter(spec, own.tensor.shallow_clone()));
            continue;
        }
        let value = reading.read(&slot)?;
        let value = value.ok_or_else(|| EngineError::Bug(format!("no value for `{}`", spec.name)))?;
        let value = value.to_kind(Kind::Float);
        let shape: Vec<_> = spec.shape.iter().map(|size| *size as i64).collect();
        let is_wider = expected.has_common_rank() && matches!(slot, ReaderSlot::A(_) | ReaderSlot::B(_));
        if value.size() != shape && !is_wider {
            return Err(EngineError::Weights {
                path: reading.path(&slot).to_owned(),
                problems: vec![format!("{} has shape {:?}, not {shape:?}", told(&slot), value.size())],
            });
        }
        parameters.insert(parameter(spec, value));
    }
    Ok(parameters)
}

fn parameter(spec: &ParamSpec, tensor: Tensor) -> Parameter {
    Parameter {
        spec: spec.clone(),
        tensor,
        trainable: false,
        quantized: None,
    }
}

/// Returns the places whose tensors are the parameter itself: several for an A that several linears share.
pub(super) fn slots_of(expected: &Expected<'_>, name: &str) -> Vec<ReaderSlot> {
    if expected.rows.iter().any(|row| row.name == name) {
        return vec![ReaderSlot::Parameter(name.to_owned())];
    }
    let linears = expected.adapters.linears.iter().filter(|(linear, _)| !expected.merges(linear));
    let slots = linears.filter_map(|(linear, LinearAdapter { a, b, magnitude, .. })| match () {
        () if a == name => Some(ReaderSlot::A(linear.clone())),
        () if b == name => Some(ReaderSlot::B(linear.clone())),
        () if magnitude.as_deref() == Some(name) => Some(ReaderSlot::Magnitude(linear.clone())),
        () => None,
    });
    slots.collect()
}
