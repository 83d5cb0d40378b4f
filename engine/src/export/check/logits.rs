//! Compares trained tensors and canary logits of the run, of what was written, and of the base, layer by layer.

use super::Subject;
use super::adapter_config::reader_adapters;
use super::canary::canary;
use super::chunk::Chunk;
use super::expected::Expected;
use super::forward::{chunks, forward};
use super::found::{Found, largest};
use super::reading::Reading;
use super::unchanged::unchanged;
use crate::error::{EngineError, Result};
use crate::model::Models;
use crate::parameters::Parameters;
use neva_layout::{Adapters, ModelTable};
use std::collections::BTreeSet;
use tch::Tensor;

/// When the logits are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Logits {
    /// Unless all tensors are the run's byte by byte, and there is no base to compare with.
    IfNeeded,
    /// Always: the caller wants them.
    Always,
}

/// Whose logits are computed: indices of hidden states.
const RUN: usize = 0;
const EXPORT: usize = 1;
const BASE: usize = 2;
/// The run, with the weights in 4 bits that it computed with.
const FOUR_BITS: usize = 3;

/// Compares values and logits.
///
/// # Errors
/// A file cannot be read, or does not fit the model.
pub(super) fn compare(
    subject: &Subject<'_>,
    (models, table): (&Models, &ModelTable),
    expected: &Expected<'_>,
    reading: &Reading,
    logits: Logits,
) -> Result<Found> {
    let mut found = Found::new(unchanged(expected, reading)?, reader_adapters(subject, expected)?);
    found.identical = logits == Logits::IfNeeded && found.has_equal_bytes(expected, reading);
    if !found.identical {
        tch::no_grad(|| found.compute((models, table), expected, reading))?;
    }
    Ok(found)
}

impl Found {
    /// Returns whether every tensor of the run is the export's byte by byte, and there is no base to compare with.
    fn has_equal_bytes(&self, expected: &Expected<'_>, reading: &Reading) -> bool {
        let is_equal = |name: &String| self.unchanged.contains(name) || reading.is_of_base(expected, name);
        !expected.has_base() && expected.adapters.linears.is_empty() && expected.rows.iter().all(|row| is_equal(&row.name))
    }

    fn compute(&mut self, (models, table): (&Models, &ModelTable), expected: &Expected<'_>, reading: &Reading) -> Result<()> {
        let batch = canary(&table.description);
        let (own, adapters, none) = (&expected.adapters, self.adapters.clone(), Adapters::default());
        let mut compares_base = expected.has_base();
        let mut hidden: [Option<Tensor>; 4] = [const { None }; 4];
        // Whether export and base have computed the same as the run so far.
        let mut agree = [true; 4];
        for layers in chunks(table) {
            let place = (models, table, &layers);
            let mut step = |index: usize, parameters: &Parameters, adapters: &Adapters| -> Result<()> {
                hidden[index] = Some(forward(place, (parameters, adapters), &batch, hidden[index].as_ref())?);
                Ok(())
            };
            let chunk = Chunk {
                expected,
                reading,
                layers: &layers,
                ids: &batch.input_ids_bs,
            };
            let mut same = BTreeSet::new();
            let mut run = chunk.of_run(&mut |part| {
                same.append(&mut self.compare(expected, reading, part)?);
                Ok(())
            })?;
            step(RUN, &run, own)?;
            if expected.is_in_four_bits() {
                step(FOUR_BITS, &chunk.in_four_bits(&run)?, own)?;
            }
            agree[EXPORT] &= !chunk.is_adapted() && run.iter().all(|own| same.contains(&own.spec.name));
            agree[BASE] &= !chunk.is_adapted() && !chunk.has_trained(&run);
            // What is not used again makes room.
            run = chunk.used_again(run, agree[EXPORT], &same);
            if compares_base && !agree[BASE] {
                match chunk.of_base(&run) {
                    Ok(base) => step(BASE, &base, &none)?,
                    Err(error) => {
                        tracing::warn!("the export is not compared with its base: {error}");
                        compares_base = false;
                    }
                }
            }
            if !agree[EXPORT] {
                step(EXPORT, &chunk.written(run, &same)?, &adapters)?;
            }
            // The same parameters of the same input give the same output.
            for index in [EXPORT, BASE].into_iter().filter(|index| agree[*index]) {
                hidden[index] = hidden[RUN].as_ref().map(Tensor::shallow_clone);
            }
        }
        let [run, export, base, four_bits] = hidden;
        let (run, export) = run.zip(export).ok_or_else(|| EngineError::Bug("a model without layers".into()))?;
        self.largest = run.abs().max().double_value(&[]);
        self.from_run = largest(&export, &run);
        if let Some(base) = base.filter(|_| compares_base) {
            self.from_base = Some(largest(&export, &base));
            self.run_from_base = Some(largest(&run, &base));
        }
        self.from_four_bits = four_bits.map(|four_bits| largest(&four_bits, &run));
        self.canary = vec![("input_ids".to_owned(), batch.input_ids_bs), ("logits".to_owned(), run)];
        self.canary.extend(batch.pixels.map(|pixels| ("pixel_values".to_owned(), pixels)));
        Ok(())
    }
}
