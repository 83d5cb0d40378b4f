//! Cross entropy of rows of logits, with its gradient in their place.

use crate::launch::torch;
use crate::processor::{Entropy, InstructionSet, cross_entropy as compute};
use neva_torch_ffi::{Error, Result};
use tch::{Device, Kind, Tensor};

const OP: &str = "cross entropy";

/// Returns whether [`cross_entropy_`] computes with such logits. It needs a compiler with libtorch's OpenMP.
pub fn covers_cross_entropy(kind: Kind, device: Device) -> bool {
    cfg!(with_threads) && device == Device::Cpu && matches!(kind, Kind::Float | Kind::BFloat16)
}

/// Returns the cross entropy `[t]` of each row of `logits_tv`, in fp32. With `with_grad` the logits become the gradients of
/// their rows' losses, softmax - one_hot(target), rounded once; else they stay. No autograd.
///
/// # Errors
/// The logits are not contiguous, not on the CPU, or in another data type than fp32 and bf16, or there is not one target for
/// each row.
pub fn cross_entropy_(logits_tv: &Tensor, targets_t: &Tensor, with_grad: bool) -> Result<Tensor> {
    cross_entropy_with(InstructionSet::best(), logits_tv, targets_t, with_grad)
}

/// As [`cross_entropy_`], with one of [`InstructionSet::available`].
///
/// # Errors
/// As [`cross_entropy_`].
pub fn cross_entropy_with(set: InstructionSet, logits_tv: &Tensor, targets_t: &Tensor, with_grad: bool) -> Result<Tensor> {
    let (size, kind) = (logits_tv.size(), logits_tv.kind());
    let targets = targets_t
        .f_to_kind(Kind::Int64)
        .and_then(|targets| targets.f_contiguous())
        .map_err(torch(OP))?;
    let [rows, width] = <[i64; 2]>::try_from(size.as_slice()).unwrap_or_default();
    let fits = covers_cross_entropy(kind, logits_tv.device()) && logits_tv.is_contiguous() && width > 0;
    if !fits || targets.size() != [rows] || targets.device() != Device::Cpu || !InstructionSet::available().any(|own| own == set) {
        return Err(Error::Argument(format!(
            "{OP} of {size:?} in {kind:?} with targets {:?}",
            targets.size()
        )));
    }
    let losses_t = Tensor::f_empty([rows], (Kind::Float, Device::Cpu)).map_err(torch(OP))?;
    let entropy = Entropy {
        logits: logits_tv.data_ptr(),
        targets: targets.data_ptr().cast(),
        losses: losses_t.data_ptr().cast(),
        rows,
        width,
        grad: i32::from(with_grad),
    };
    // SAFETY: shapes, data types and memory layout were checked above; the tensors live during the call.
    unsafe { compute(set, &entropy, i32::from(kind == Kind::BFloat16)) };
    Ok(losses_t)
}
