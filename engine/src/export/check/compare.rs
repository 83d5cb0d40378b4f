//! Compares the values of what was written with the run's.

use super::expected::Expected;
use super::found::{Found, largest};
use super::reading::{Reading, told};
use crate::error::{EngineError, Result};
use crate::parameters::{Parameter, Parameters};
use neva_layout::{Adapters, LinearAdapter, ParamSpec, ReaderSlot};
use std::collections::BTreeSet;
use tch::{Kind, Tensor};

/// Largest difference of a merged weight from its formula, relative to its largest value.
fn rounding(kind: Kind) -> f64 {
    match kind {
        Kind::BFloat16 => 0.004,
        Kind::Half => 0.0005,
        _ => 1e-6,
    }
}

/// Returns the value of a parameter, and whether an adapter changes it.
pub(super) type Formula<'a> = dyn Fn(&ParamSpec) -> Result<(Tensor, bool)> + 'a;

impl Found {
    /// Compares what was written with the values of a formula. Returns the number of parameters that an adapter changes.
    pub(super) fn compare_formula(&mut self, reading: &Reading, rows: &[ParamSpec], formula: &Formula<'_>) -> Result<usize> {
        let mut changed = 0;
        for row in rows.iter().filter(|row| !self.unchanged.contains(&row.name)).collect::<Vec<_>>() {
            let (value, is_changed) = formula(row)?;
            changed += usize::from(is_changed);
            let slot = ReaderSlot::Parameter(row.name.clone());
            self.read_extent(reading.extent(&slot).as_ref());
            self.compare_tensor(reading, &slot, &value.f_to_kind(Kind::Float)?, !is_changed)?;
        }
        Ok(changed)
    }

    /// Compares some of the run's parameters with what was written. Returns the names of those that are the same there.
    pub(super) fn compare(&mut self, expected: &Expected<'_>, reading: &Reading, run: &Parameters) -> Result<BTreeSet<String>> {
        let mut same = BTreeSet::new();
        for Parameter { spec, tensor, .. } in run.iter() {
            let module = spec.lora.as_ref().filter(|module| expected.merges(&module.linear));
            if let Some(adapter) = module.and_then(|module| expected.adapters.linears.get(&module.linear)) {
                let slot = ReaderSlot::Parameter(spec.name.clone());
                self.compare_tensor(reading, &slot, &merged(run, tensor, adapter)?, false)?;
                continue;
            }
            let slots = expected.slots_of(&spec.name);
            let mut equal = !slots.is_empty();
            for slot in slots {
                equal &= self.compare_whole(expected, reading, (&slot, spec), tensor)?;
            }
            if equal {
                same.insert(spec.name.clone());
            }
        }
        Ok(same)
    }

    /// Compares a tensor that has no merged adapter. Returns whether what the reader has is the same.
    fn compare_whole(
        &mut self,
        expected: &Expected<'_>,
        reading: &Reading,
        (slot, spec): (&ReaderSlot, &ParamSpec),
        tensor: &Tensor,
    ) -> Result<bool> {
        if !reading.has(slot) {
            return Ok(reading.is_of_base(expected, &spec.name));
        }
        let got = reading.extent(slot);
        self.read_extent(got.as_ref());
        if self.unchanged.contains(&spec.name) {
            return Ok(true);
        }
        if expected.trained().contains(&spec.name) {
            let (wanted, exactly) = self.as_read(expected, slot, tensor, got.map(|got| got.shape))?;
            let equal = self.compare_tensor(reading, slot, &wanted, exactly)?;
            return Ok(equal && exactly && wanted.size() == tensor.size());
        }
        if let Some((own, got)) = expected.extent(spec).zip(got)
            && own.kind == got.kind
        {
            self.values
                .push(format!("{} was not trained, and differs from the base's", told(slot)));
        }
        let got = reading.read(slot)?;
        Ok(got.is_some_and(|got| got.size() == tensor.size() && got.to_kind(Kind::Float).equal(tensor)))
    }

    /// Returns A or B of the run's adapter with the rank and scale that the reader has for it, which vLLM has in common for all
    /// adapters: more rows of A and columns of B are 0. The flag says whether the values are the run's own.
    fn as_read(&self, expected: &Expected<'_>, slot: &ReaderSlot, own: &Tensor, shape: Option<Vec<usize>>) -> Result<(Tensor, bool)> {
        let (dim, linear) = match slot {
            ReaderSlot::A(linear) => (0, linear),
            ReaderSlot::B(linear) => (1, linear),
            ReaderSlot::Parameter(_) | ReaderSlot::Magnitude(_) => return Ok((own.shallow_clone(), true)),
        };
        let mut tensor = own.shallow_clone();
        let missing = shape.map_or(0, |shape| shape.get(dim).map_or(0, |size| *size as i64) - own.size()[dim]);
        if expected.has_common_rank() && missing > 0 {
            let mut zeros = own.size();
            zeros[dim] = missing;
            tensor = Tensor::f_cat(&[own, &Tensor::f_zeros(&zeros, (own.kind(), own.device()))?], dim as i64)?;
        }
        let scale = |adapters: &Adapters| adapters.linears.get(linear).map_or(1.0, |adapter| adapter.scale);
        let factor = scale(&expected.adapters) / scale(&self.adapters);
        let is_own = dim == 0 || factor == 1.0 || !expected.has_common_rank();
        Ok(if is_own { (tensor, true) } else { (tensor * factor, false) })
    }

    /// Returns whether the written tensor has exactly the values.
    fn compare_tensor(&mut self, reading: &Reading, slot: &ReaderSlot, expected: &Tensor, exactly: bool) -> Result<bool> {
        let Some(got) = reading.read(slot)? else { return Ok(false) };
        self.read_kind(got.kind());
        if got.size() != expected.size() {
            self.values.push(format!(
                "{} has shape {:?}, the run's is {:?}",
                told(slot),
                got.size(),
                expected.size()
            ));
            return Ok(false);
        }
        let rounded = expected.to_kind(got.kind());
        let (got, rounded) = (got.to_kind(Kind::Float), rounded.to_kind(Kind::Float));
        if got.equal(&rounded) {
            return Ok(rounded.equal(expected));
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
        Ok(false)
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
