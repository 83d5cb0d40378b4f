//! The fused AdamW kernel: updates many parameters in one call.

use tch::{Kind, Tensor};

use crate::error::{Error, Result};
use crate::sys;
use crate::tensors::{optional_pointer, pointers};

/// Hyperparameters of AdamW (Loshchilov and Hutter, "Decoupled Weight Decay Regularization", algorithm 2).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamW {
    /// Learning rate.
    pub lr: f64,
    /// Decay of the running average of the gradient.
    pub beta1: f64,
    /// Decay of the running average of the squared gradient.
    pub beta2: f64,
    /// Added to the square root of the average squared gradient, for numerical stability.
    pub eps: f64,
    /// Decoupled weight decay: each step first multiplies the parameter by `1 - lr * weight_decay`.
    pub weight_decay: f64,
    /// Maximizes the objective instead of minimizing it.
    pub maximize: bool,
}

/// A parameter, its gradient and its optimizer state. All but `step` have the same shape, kind and device.
#[derive(Debug, Clone, Copy)]
pub struct AdamWSlot<'a> {
    /// The parameter, which is updated in place; autograd does not record the update.
    pub param: &'a Tensor,
    /// Gradient of the parameter.
    pub grad: &'a Tensor,
    /// Running average of the gradient; zeros at first.
    pub exp_avg: &'a Tensor,
    /// Running average of the squared gradient; zeros at first.
    pub exp_avg_sq: &'a Tensor,
    /// Number of completed steps, one `Kind::Float` element; 0 at first.
    pub step: &'a Tensor,
}

/// Loss scaling: the kernel divides gradients by `scale`, and skips the step if `found_inf` is 1. Each is one
/// `Kind::Float` element.
#[derive(Debug, Clone, Copy)]
pub struct LossScale<'a> {
    /// Factor that the loss was multiplied by.
    pub scale: &'a Tensor,
    /// 1 if a gradient is not finite, otherwise 0.
    pub found_inf: &'a Tensor,
}

/// Makes one AdamW step on all `slots`, and adds 1 to their `step`s.
///
/// The update is that of `torch.optim.AdamW(fused=True)`. All parameters have the same kind and device.
///
/// # Errors
/// Returns [`Error::Argument`], which names the parameter and the invalid tensor.
pub fn fused_adamw_(options: &AdamW, slots: &[AdamWSlot<'_>], loss_scale: Option<LossScale<'_>>) -> Result<()> {
    let Some(first) = slots.first() else { return Ok(()) };
    for (index, slot) in slots.iter().enumerate() {
        check_slot(slot, first.param).map_err(|problem| Error::Argument(format!("AdamW, parameter {index}: {problem}")))?;
    }
    if let Some(LossScale { scale, found_inf }) = loss_scale {
        for (what, tensor) in [("scale", scale), ("found_inf", found_inf)] {
            check_scalar(what, tensor).map_err(|problem| Error::Argument(format!("AdamW: {problem}")))?;
        }
    }
    let AdamW {
        lr,
        beta1,
        beta2,
        eps,
        weight_decay,
        maximize,
    } = *options;
    let options = sys::AdamWOptions {
        lr,
        beta1,
        beta2,
        eps,
        weight_decay,
        maximize,
    };
    let list = |field: fn(&AdamWSlot<'_>) -> *const sys::CTensor| slots.iter().map(field).collect::<Vec<_>>();
    let params = list(|slot| slot.param.as_ptr().cast());
    let grads = list(|slot| slot.grad.as_ptr().cast());
    let averages = list(|slot| slot.exp_avg.as_ptr().cast());
    let squares = list(|slot| slot.exp_avg_sq.as_ptr().cast());
    let steps = pointers(slots.iter().map(|slot| slot.step));
    // SAFETY: five lists of `slots.len()` pointers to defined tensors of matching kind and shape (checked). They are
    // borrowed for the call, as are `options` and the two scalars, which may be null.
    let status = unsafe {
        sys::neva_fused_adamw(
            params.as_ptr(),
            grads.as_ptr(),
            averages.as_ptr(),
            squares.as_ptr(),
            steps.as_ptr(),
            slots.len(),
            &raw const options,
            optional_pointer(loss_scale.map(|loss| loss.scale)),
            optional_pointer(loss_scale.map(|loss| loss.found_inf)),
        )
    };
    status.check("fused AdamW")
}

/// Checks the tensors of a slot: the kernel processes them as flat arrays of the same kind.
fn check_slot(slot: &AdamWSlot<'_>, first: &Tensor) -> Result<(), String> {
    let AdamWSlot {
        param,
        grad,
        exp_avg,
        exp_avg_sq,
        step,
    } = slot;
    for (what, tensor) in [("param", param), ("grad", grad), ("exp_avg", exp_avg), ("exp_avg_sq", exp_avg_sq)] {
        if !tensor.defined() {
            return Err(format!("{what} is undefined"));
        }
        let (found, want) = ((tensor.kind(), tensor.device()), (first.kind(), first.device()));
        if found != want {
            return Err(format!("{what} is {found:?}, but the first parameter is {want:?}"));
        }
        if tensor.size() != param.size() {
            return Err(format!(
                "{what} has shape {:?}, but the parameter has {:?}",
                tensor.size(),
                param.size()
            ));
        }
        if !tensor.is_contiguous() {
            return Err(format!("{what} is not contiguous"));
        }
    }
    check_scalar("step", step)
}

fn check_scalar(what: &str, tensor: &Tensor) -> Result<(), String> {
    if !tensor.defined() || tensor.kind() != Kind::Float || tensor.numel() != 1 {
        return Err(format!("{what} must be one Kind::Float element"));
    }
    Ok(())
}
