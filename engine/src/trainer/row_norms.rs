//! First lengths of the rows of adapted weights (DoRA): those of the weights themselves.

use crate::error::Result;
use crate::nn::{TensorRegion, row_norms, row_squares};
use crate::parameters::Parameters;
use neva_layout::Adapters;

/// Sets the magnitudes that no file held. Ranks that share a row sum over their columns.
pub(super) fn fill_row_norms(parameters: &Parameters, adapters: &Adapters, region: &TensorRegion) -> Result<()> {
    for (linear, adapter) in &adapters.linears {
        let own = adapter.magnitude.as_ref().filter(|name| parameters.is_fresh(name));
        let Some(magnitude) = own.and_then(|name| parameters.find(name)) else {
            continue;
        };
        let weight = parameters.get(&format!("{linear}.weight"))?;
        let values = match &weight.quantized {
            Some(quantized) => quantized.dequantize(parameters.kind())?,
            None => weight.tensor.detach(),
        };
        let (a, b) = (&parameters.get(&adapter.a)?.tensor, &parameters.get(&adapter.b)?.tensor);
        let norms = tch::no_grad(|| row_norms(&values, &row_squares(&values)?, [a, b], adapter.scale, weight.spec.cut, region))?;
        tch::no_grad(|| magnitude.tensor.shallow_clone().f_copy_(&norms))?;
    }
    Ok(())
}
