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
use neva_layout::{Adapters, LinearAdapter, ModelTable, ParamSpec, ReaderSlot};
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
    kind: Kind,
    values: Vec<String>,
    pub(super) canary: CanaryTensors,
}

/// Largest difference of logits from the run's, relative to the largest logit, for weights that are stored in a kind.
fn bound(kind: Kind) -> f64 {
    match kind {
        Kind::BFloat16 => 3e-2,
        Kind::Half => 5e-3,
        _ => 1e-4,
    }
}

/// Largest difference of a merged weight from its formula, relative to its largest value.
fn rounding(kind: Kind) -> f64 {
    match kind {
        Kind::BFloat16 => 0.004,
        Kind::Half => 0.0005,
        _ => 1e-6,
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
        };
        let mut compares_base = !expected.trained().is_empty();
        let mut hidden: [Option<Tensor>; 3] = [None, None, None];
        for chunk in chunks(table) {
            let holds = |spec: &ParamSpec| chunk.holds(spec);
            let run = expected.of_run(&holds)?;
            found.compare(expected, reading, &run)?;
            let place = (models, table, &chunk);
            let mut step = |index: usize, parameters: &Parameters, adapters: &Adapters| -> Result<()> {
                hidden[index] = Some(forward(place, (parameters, adapters), &batch, hidden[index].as_ref())?);
                Ok(())
            };
            step(0, &run, own)?;
            if compares_base {
                match base(expected, &run, &holds) {
                    Ok(base) => step(2, &base, &none)?,
                    Err(error) => {
                        tracing::warn!("the export is not compared with its base: {error}");
                        compares_base = false;
                    }
                }
            }
            // A whole model has all tensors, and the memory of the run's is free before they are read.
            let run = expected.is_partial().then_some(run);
            step(1, &written(expected, reading, &holds, run.as_ref())?, &adapters)?;
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
fn largest(a: &Tensor, b: &Tensor) -> f64 {
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

/// Returns the parameters that the reader has. What was not written is the base's, which `run` holds.
fn written(expected: &Expected<'_>, reading: &Reading, holds: &dyn Fn(&ParamSpec) -> bool, run: Option<&Parameters>) -> Result<Parameters> {
    let mut parameters = Parameters::default();
    for spec in expected.specs.iter().filter(|spec| holds(spec)) {
        // Without a place it is merged.
        let Some(slot) = slots_of(expected, &spec.name).into_iter().next() else {
            continue;
        };
        let value = match (reading.read(&slot)?, run) {
            (Some(value), _) => value.to_kind(Kind::Float),
            (None, Some(run)) => run.get(&spec.name)?.tensor.shallow_clone(),
            (None, None) => return Err(EngineError::Bug(format!("no value for `{}`", spec.name))),
        };
        let shape: Vec<_> = spec.shape.iter().map(|size| *size as i64).collect();
        if value.size() != shape {
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
fn slots_of(expected: &Expected<'_>, name: &str) -> Vec<ReaderSlot> {
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

impl Found {
    /// Compares the trained tensors of a chunk with what was written.
    fn compare(&mut self, expected: &Expected<'_>, reading: &Reading, run: &Parameters) -> Result<()> {
        for Parameter { spec, tensor, .. } in run.iter() {
            let module = spec.lora.as_ref().filter(|module| expected.merges(&module.linear));
            if let Some(adapter) = module.and_then(|module| expected.adapters.linears.get(&module.linear)) {
                let slot = ReaderSlot::Parameter(spec.name.clone());
                self.compare_tensor(reading, &slot, &merged(run, tensor, adapter)?, false)?;
            } else if expected.trained().contains(&spec.name) {
                for slot in slots_of(expected, &spec.name) {
                    self.compare_tensor(reading, &slot, tensor, true)?;
                }
            }
        }
        Ok(())
    }

    fn compare_tensor(&mut self, reading: &Reading, slot: &ReaderSlot, expected: &Tensor, exactly: bool) -> Result<()> {
        let Some(got) = reading.read(slot)? else { return Ok(()) };
        if bound(got.kind()) > bound(self.kind) {
            self.kind = got.kind();
        }
        if got.size() != expected.size() {
            self.values.push(format!(
                "{} has shape {:?}, the run's is {:?}",
                told(slot),
                got.size(),
                expected.size()
            ));
            return Ok(());
        }
        let rounded = expected.to_kind(got.kind());
        let (got, rounded) = (got.to_kind(Kind::Float), rounded.to_kind(Kind::Float));
        if got.equal(&rounded) {
            return Ok(());
        }
        let allowed = if exactly {
            0.0
        } else {
            rounding(self.kind) * rounded.abs().max().double_value(&[])
        };
        let difference = largest(&got, &rounded);
        if difference > allowed {
            self.values
                .push(format!("{} differs by {difference:.1e} from the run's", told(slot)));
        }
        Ok(())
    }
}

/// Returns a weight with its adapter: `W + scale * B A`, its rows scaled to the lengths of a magnitude.
fn merged(run: &Parameters, weight: &Tensor, adapter: &LinearAdapter) -> Result<Tensor> {
    let value = |name: &str| Ok::<_, EngineError>(run.get(name)?.tensor.to_kind(Kind::Float));
    let sum = weight + value(&adapter.b)?.matmul(&value(&adapter.a)?) * adapter.scale;
    let Some(magnitude) = &adapter.magnitude else { return Ok(sum) };
    let lengths = (&sum * &sum).sum_dim_intlist([1i64].as_slice(), true, Kind::Float).sqrt();
    Ok(&sum * (value(magnitude)?.unsqueeze(1) / lengths))
}
