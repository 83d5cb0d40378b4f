//! The two ways into the autograd engine, and what one of them leaves in a leaf. Both work inside a callback (re-entrantly), to any depth.

use std::ptr::null_mut;

use tch::Tensor;

use crate::error::{Error, Result};
use crate::sys::{self, CTensor};
use crate::tensors::{check_defined, optional_pointer, pointer, pointers, take};

/// Accumulates into the leaves below `outputs`, from the given gradient of each.
///
/// `None` stands for 1 and is for scalars only. `outputs` and `grads` have the same length, a gradient
/// its output's shape. The graph is freed as it is walked unless `keep_graph`.
///
/// # Errors
/// [`Error::Argument`] for outputs without a graph and gradients that do not fit; [`Error::Callback`] and
/// [`Error::Panic`] with the text of the Rust callback that failed; [`Error::Torch`] for the rest.
/// Leaves may then hold part of the gradient.
pub fn backward(outputs: &[&Tensor], grads: &[Option<&Tensor>], keep_graph: bool) -> Result<()> {
    let (outputs, grads) = roots(outputs, grads)?;
    if outputs.is_empty() {
        return Ok(());
    }
    // SAFETY: both lists hold `outputs.len()` pointers to tensors borrowed for the call, the outputs defined.
    unsafe { sys::neva_backward(outputs.as_ptr(), grads.as_ptr(), outputs.len(), keep_graph) }.check("backward")
}

/// The gradients of `outputs` with respect to `inputs`, one each (`None`: it is not below them).
/// Accumulates nowhere; what else `outputs` depends on gets nothing.
///
/// # Errors
/// As [`backward`]; [`Error::Argument`] also for an input that requires no gradient.
pub fn grad(outputs: &[&Tensor], grads: &[Option<&Tensor>], inputs: &[&Tensor], keep_graph: bool) -> Result<Vec<Option<Tensor>>> {
    let (outputs, grads) = roots(outputs, grads)?;
    check_defined("input", inputs.iter().copied())?;
    if let Some(index) = inputs.iter().position(|input| !input.requires_grad()) {
        return Err(Error::Argument(format!(
            "input {index} requires no gradient, so none can be returned"
        )));
    }
    let inputs = pointers(inputs.iter().copied());
    let mut results: Vec<*mut CTensor> = vec![null_mut(); inputs.len()];
    if !outputs.is_empty() && !inputs.is_empty() {
        // SAFETY: the first two lists hold `outputs.len()` pointers, the last two `inputs.len()`; all
        // tensors are borrowed for the call and defined but for the gradients, which may be null.
        let status = unsafe {
            sys::neva_grad(
                outputs.as_ptr(),
                grads.as_ptr(),
                outputs.len(),
                inputs.as_ptr(),
                results.as_mut_ptr(),
                inputs.len(),
                keep_graph,
            )
        };
        status.check("grad")?;
    }
    // SAFETY: `neva_grad` left null, or stored a tensor of its own making that is now ours.
    Ok(results.into_iter().map(|raw| unsafe { take(raw) }).collect())
}

/// The gradient that has accumulated in `leaf`, which has none afterwards.
///
/// # Errors
/// [`Error::Argument`] for an undefined tensor.
pub fn take_grad(leaf: &Tensor) -> Result<Option<Tensor>> {
    check_defined("leaf", [leaf])?;
    let mut grad = null_mut();
    // SAFETY: `leaf` is defined and borrowed for the call, `grad` is a place for one pointer.
    unsafe { sys::neva_take_grad(pointer(leaf), &raw mut grad) }.check("take a gradient")?;
    // SAFETY: `neva_take_grad` left null, or stored a tensor of its own making that is now ours.
    Ok(unsafe { take(grad) })
}

type Roots = (Vec<*const CTensor>, Vec<*const CTensor>);

fn roots(outputs: &[&Tensor], grads: &[Option<&Tensor>]) -> Result<Roots> {
    if outputs.len() != grads.len() {
        return Err(Error::Argument(format!("{} outputs, but {} gradients", outputs.len(), grads.len())));
    }
    check_defined("output", outputs.iter().copied())?;
    for (index, (output, grad)) in outputs.iter().zip(grads).enumerate() {
        check_root(output, *grad).map_err(|problem| Error::Argument(format!("output {index} {problem}")))?;
    }
    Ok((
        pointers(outputs.iter().copied()),
        grads.iter().map(|grad| optional_pointer(*grad)).collect(),
    ))
}

fn check_root(output: &Tensor, grad: Option<&Tensor>) -> Result<(), String> {
    let size = output.size();
    if !output.requires_grad() {
        return Err("requires no gradient: nothing below it does, or gradients were off when it was computed".into());
    }
    match grad {
        None if output.numel() != 1 => Err(format!("has shape {size:?} and needs a gradient: only scalars have one by default")),
        Some(grad) if !grad.defined() => Err("was given an undefined gradient".into()),
        Some(grad) if grad.size() != size => Err(format!("has shape {size:?}, but its gradient has {:?}", grad.size())),
        _ => Ok(()),
    }
}
