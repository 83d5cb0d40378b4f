//! Entry points of the autograd engine: `backward` accumulates gradients into leaves, `grad` returns them, and
//! `take_grad` moves an accumulated gradient out of a leaf, whose memory others may have. `backward` and `grad` also work
//! inside a callback (re-entrantly), to any depth.

use std::ptr::null_mut;

use tch::Tensor;

use crate::error::{Error, Result};
use crate::sys::{self, CTensor};
use crate::tensors::{check_defined, from_raw, optional_pointer, pointer, pointers};

/// Runs the backward pass from `outputs` and accumulates gradients into the leaves, as `torch.autograd.backward`.
///
/// `grads` are the gradients of the outputs, with the same length and shapes. `None` stands for 1 and is allowed for
/// scalars only. The backward pass frees the graph unless `keep_graph`.
///
/// # Errors
/// Returns [`Error::Argument`] for outputs without a graph and for gradients of the wrong shape, [`Error::Callback`] and
/// [`Error::Panic`] with the text of the Rust callback that failed, and [`Error::Torch`] for other failures.
/// After an error, leaves may hold an incomplete gradient.
pub fn backward(outputs: &[&Tensor], grads: &[Option<&Tensor>], keep_graph: bool) -> Result<()> {
    let (outputs, grads) = roots(outputs, grads)?;
    if outputs.is_empty() {
        return Ok(());
    }
    // SAFETY: both lists hold `outputs.len()` pointers to tensors that are borrowed for the call; the outputs are defined.
    unsafe { sys::neva_backward(outputs.as_ptr(), grads.as_ptr(), outputs.len(), keep_graph) }.check("backward")
}

/// Returns the gradient of `outputs` with respect to each of `inputs` (`None`: `outputs` do not depend on it), as
/// `torch.autograd.grad`. It accumulates no gradient, neither in `inputs` nor in other leaves.
///
/// # Errors
/// Returns the errors of [`backward`], and [`Error::Argument`] for an input that requires no gradient.
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
        // SAFETY: the first two lists hold `outputs.len()` pointers, the last two `inputs.len()`. All tensors are
        // borrowed for the call, and all but the gradients, which may be null, are defined.
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
    // SAFETY: each pointer is null or points to a new tensor that `neva_grad` gave to us.
    Ok(results.into_iter().map(|raw| unsafe { from_raw(raw) }).collect())
}

/// Moves the accumulated gradient out of `leaf`, which has no gradient afterwards.
///
/// Others may have its memory, see [`owns_memory`]: libtorch keeps a gradient without a copy if there is no other reference to the
/// same tensor, but views of it may be gradients of other leaves, or be needed by the rest of the pass. `a + b.view(..)` gives `b`
/// a view of the gradient of `a`.
///
/// # Errors
/// Returns [`Error::Argument`] for an undefined tensor.
pub fn take_grad(leaf: &Tensor) -> Result<Option<Tensor>> {
    check_defined("leaf", [leaf])?;
    let mut grad = null_mut();
    // SAFETY: `leaf` is defined and borrowed for the call, `grad` has room for one pointer.
    unsafe { sys::neva_take_grad(pointer(leaf), &raw mut grad) }.check("take a gradient")?;
    // SAFETY: the pointer is null or points to a new tensor that `neva_take_grad` gave to us.
    Ok(unsafe { from_raw(grad) })
}

/// Returns true if no other tensor has the memory of `tensor`, and `tensor` fills it. Whoever owns such a tensor may keep it and
/// change it.
///
/// # Errors
/// Returns [`Error::Argument`] for an undefined tensor, and [`Error::Torch`] for a sparse one.
pub fn owns_memory(tensor: &Tensor) -> Result<bool> {
    check_defined("tensor", [tensor])?;
    let mut owns = false;
    // SAFETY: `tensor` is defined and borrowed for the call, `owns` is a valid bool to write to.
    unsafe { sys::neva_owns_memory(pointer(tensor), &raw mut owns) }.check("count the owners of a tensor's memory")?;
    Ok(owns)
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
        return Err("requires no gradient: none of its inputs does, or gradients were disabled when it was computed".into());
    }
    match grad {
        None if output.numel() != 1 => Err(format!(
            "has shape {size:?} and needs a gradient: only scalars have a default gradient"
        )),
        Some(grad) if !grad.defined() => Err("has an undefined gradient".into()),
        Some(grad) if grad.size() != size => Err(format!("has shape {size:?}, but its gradient has {:?}", grad.size())),
        _ => Ok(()),
    }
}
