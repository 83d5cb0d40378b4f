//! Reads this rank's local shards of tensors in files.

use super::safetensors_file::TensorFile;
use crate::error::{EngineError, Result};
use crate::fp8::{Float8Tensor, Format, Role, recipe};
use crate::parameters::Parameter;
use crate::quantization::{Nf4, Quantized};
use neva_layout::{ParamSpec, Window};
use neva_schemas::{Fp8, Fp8Recipe};
use std::collections::BTreeMap;
use std::path::Path;
use tch::{Device, Kind, Tensor};

/// Placement of parameters on this rank.
#[derive(Debug, Clone, Copy)]
pub struct Placement {
    /// Number of this rank in the tensor-parallel group.
    pub tp_rank: usize,
    /// Size of the tensor-parallel group.
    pub tp: usize,
    /// Data type of the computation.
    pub kind: Kind,
    /// Device of the tensors.
    pub device: Device,
}

impl Placement {
    pub(crate) fn place(&self, spec: &ParamSpec, value: Tensor, trainable: bool) -> Parameter {
        let tensor = value.to_device(self.device).to_kind(self.kind).set_requires_grad(trainable);
        Parameter {
            spec: spec.clone(),
            tensor,
            trainable,
            quantized: None,
        }
    }

    /// Quantises the whole tensor of a parameter to 4 bits, and keeps this rank's part.
    pub(super) fn quantize_nf4(&self, spec: &ParamSpec, value: Tensor) -> Result<Parameter> {
        let value = value.f_to_device(self.device)?.f_to_kind(self.kind)?;
        let values = Nf4::quantize(&value)?.cut(spec, self.tp_rank, self.tp)?;
        Ok(Self::frozen(spec, Quantized::Nf4(values)))
    }

    /// Quantises the whole tensor of a parameter to FP8, and keeps this rank's part. A frozen weight has the scale of its own
    /// amax with every recipe: delayed scaling arrives at it after its first step.
    pub(super) fn quantize_fp8(&self, spec: &ParamSpec, value: Tensor, settings: &Fp8) -> Result<Parameter> {
        let value = value.f_to_device(self.device)?.f_to_kind(self.kind)?;
        let format = Format::of(settings.format, Role::Weight);
        let shard = spec.shard(self.tp_rank, self.tp);
        let values = if let Some(blocks) = recipe::frozen_blocks(settings.recipe) {
            let own = match shard {
                Some(shard) => value.f_narrow(shard.dim as i64, shard.start as i64, shard.len as i64)?,
                None => value,
            };
            Float8Tensor::quantize_tiles(&own, blocks, format)?
        } else {
            let scale = recipe::current(&recipe::amax(&value)?, format.max(), false)?;
            let margin = if settings.recipe == Fp8Recipe::Delayed {
                settings.margin
            } else {
                0
            };
            let scale = scale.f_mul_scalar(0.5f64.powi(i32::try_from(margin).unwrap_or(i32::MAX)))?;
            Float8Tensor::quantize(&value, &scale, format)?.shard(shard)?
        };
        Ok(Self::frozen(spec, Quantized::Fp8(values)))
    }

    fn frozen(spec: &ParamSpec, quantized: Quantized) -> Parameter {
        Parameter {
            spec: spec.clone(),
            tensor: quantized.packed().shallow_clone(),
            trainable: false,
            quantized: Some(quantized),
        }
    }

    /// Reads this rank's local shard of a tensor, with the padding of its cut.
    pub(super) fn read(&self, file: &TensorFile, name: &str, spec: &ParamSpec) -> Result<Tensor> {
        self.local_shard(spec, |window| file.read_window(name, window))
    }

    /// Returns this rank's local shard of a parameter, of which `read` returns rectangles.
    pub(super) fn local_shard(&self, spec: &ParamSpec, read: impl FnOnce(&Window) -> Result<Tensor>) -> Result<Tensor> {
        let values = read(&spec.window(self.tp_rank, self.tp))?;
        let shard = spec.shard(self.tp_rank, self.tp);
        let mut shape: Vec<_> = spec.shape.iter().map(|size| *size as i64).collect();
        if let Some(shard) = shard {
            shape[shard.dim] = shard.len as i64;
        }
        let values = values.f_view(shape.as_slice())?;
        let Some(shard) = shard.filter(|shard| shard.len < shard.padded) else {
            return Ok(values);
        };
        shape[shard.dim] = (shard.padded - shard.len) as i64;
        Ok(Tensor::cat(
            &[&values, &Tensor::zeros(&shape, (values.kind(), values.device()))],
            shard.dim as i64,
        ))
    }
}

/// This rank's local shards of parameters, by name.
pub(crate) type Values = BTreeMap<String, Tensor>;

/// Removes the value of a parameter from those that were read.
///
/// # Errors
/// It was not read.
pub(super) fn take(values: &mut Values, spec: &ParamSpec) -> Result<Tensor> {
    let value = values.remove(&spec.name);
    value.ok_or_else(|| EngineError::Bug(format!("no value for `{}`", spec.name)))
}

/// Canonical name to (file, name in the file, shape).
pub(super) type Names = BTreeMap<String, (usize, String, Vec<usize>)>;

/// Reads `wanted` from the files that hold them under `names`.
pub(super) fn read_named(path: &Path, files: &[TensorFile], names: &Names, wanted: &[ParamSpec], placement: Placement) -> Result<Values> {
    let read = |spec: &ParamSpec| {
        let (index, name, _) = &names[&spec.name];
        Ok((spec.name.clone(), placement.read(&files[*index], name, spec)?))
    };
    all_finite(path, wanted.iter().map(read))
}

/// Collects values read from `path`.
///
/// # Errors
/// A value could not be read, or some tensors hold NaN, infinite numbers or integers: no training makes sense of them.
pub(super) fn all_finite(path: &Path, values: impl Iterator<Item = Result<(String, Tensor)>>) -> Result<Values> {
    let (mut finite, mut problems) = (Values::new(), Vec::new());
    for value in values {
        let (name, tensor) = value?;
        if !tensor.is_floating_point() {
            let kind = tensor.kind();
            problems.push(format!(
                "`{name}` has the kind {kind:?}, and weights are floating-point numbers: use the original model, not a quantized one"
            ));
        } else if !is_finite(&tensor)? {
            let count = tensor.f_isfinite()?.f_logical_not()?.f_sum(Kind::Int64)?.f_int64_value(&[])?;
            problems.push(format!("`{name}` holds NaN or infinite values: {count} of {}", tensor.numel()));
        }
        finite.insert(name, tensor);
    }
    if problems.is_empty() {
        Ok(finite)
    } else {
        let path = path.to_owned();
        Err(EngineError::Weights { path, problems })
    }
}

/// Returns whether all values are finite, in one pass and without a copy: least and largest value are NaN if one is.
fn is_finite(tensor: &Tensor) -> Result<bool> {
    if tensor.numel() == 0 {
        return Ok(true);
    }
    let (least, largest) = tensor.f_aminmax(None, false)?;
    Ok(least.f_double_value(&[])?.is_finite() && largest.f_double_value(&[])?.is_finite())
}

/// Lists all differences between a file and the model.
pub(super) fn mismatches(names: &Names, specs: &[ParamSpec]) -> Vec<String> {
    let mut problems = Vec::new();
    for spec in specs {
        match names.get(&spec.name) {
            None => problems.push(format!("`{}` {:?} is missing", spec.name, spec.shape)),
            Some((_, name, shape)) if *shape != spec.shape => {
                problems.push(format!("`{name}` has shape {shape:?}, the model needs {:?}", spec.shape));
            }
            Some(_) => {}
        }
    }
    for (canonical, (_, name, shape)) in names {
        if !specs.iter().any(|spec| spec.name == *canonical) {
            problems.push(format!("`{name}` {shape:?} is not in the model"));
        }
    }
    problems
}
