//! Loads the parameters of a run that keeps frozen weights in 4 bits, or in FP8.

use super::placement::{Placement, take};
use super::weights::{Sources, base_values, load_parameters};
use crate::error::{EngineError, Result};
use crate::parameters::Parameters;
use neva_layout::{Fp8Linears, ModelTable, ParamSpec, is_quantized, quantization_problem};
use neva_schemas::Finetune;
use std::collections::BTreeMap;

/// Most values of weights that are read at once to be quantised.
const QUANTIZED_AT_ONCE: usize = 1 << 28;

/// Loads parameters as [`load_parameters`] does, and keeps frozen weights in 4 bits or in FP8 if the run asks for that.
///
/// # Errors
/// As [`load_parameters`].
pub fn load_run_parameters(
    table: &ModelTable,
    specs: &[ParamSpec],
    wanted: &dyn Fn(&ParamSpec) -> bool,
    finetune: &Finetune,
    sources: Sources<'_>,
    placement: Placement,
) -> Result<Parameters> {
    let fp8 = Fp8Linears::of(finetune);
    let in_fp8 = |spec: &ParamSpec| fp8.filter(|fp8| fp8.keeps_only_fp8(spec, finetune));
    let in_fewer_bits = |spec: &ParamSpec| is_quantized(spec, finetune) || in_fp8(spec).is_some();
    let plain = |spec: &ParamSpec| wanted(spec) && !in_fewer_bits(spec);
    let parameters = load_parameters(table, specs, &plain, finetune, sources, placement)?;
    let quantized: Vec<_> = specs.iter().filter(|spec| wanted(spec) && in_fewer_bits(spec)).collect();
    if quantized.is_empty() {
        return Ok(parameters);
    }
    if let Some(problem) = quantization_problem(specs, finetune, "finetune.peft") {
        return Err(EngineError::Run(vec![problem]));
    }
    // The scales are those of the whole tensor, of which each rank keeps its part.
    let whole = Placement {
        tp_rank: 0,
        tp: 1,
        ..placement
    };
    let mut frozen = BTreeMap::new();
    let mut rest = quantized.as_slice();
    while !rest.is_empty() {
        let mut values = 0;
        let count = rest.iter().take_while(|spec| {
            values += spec.numel();
            values <= QUANTIZED_AT_ONCE
        });
        let (own, later) = rest.split_at(count.count().max(1));
        rest = later;
        let is_own = |spec: &ParamSpec| own.iter().any(|own| own.name == spec.name);
        // Frozen weights are in the base alone: the checkpoint holds what the run trains.
        let own: Vec<_> = specs.iter().filter(|spec| is_own(spec)).cloned().collect();
        let mut read = base_values(table, &own, specs, finetune, sources, whole)?;
        for spec in &own {
            let value = take(&mut read, spec)?;
            let parameter = match in_fp8(spec) {
                Some(fp8) => placement.quantize_fp8(spec, value, &fp8.settings)?,
                None => placement.quantize_nf4(spec, value)?,
            };
            frozen.insert(spec.name.clone(), parameter);
        }
    }
    Ok(parameters.with(specs, frozen))
}
