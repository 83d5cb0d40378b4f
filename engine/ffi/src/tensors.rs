//! Conversion between `tch` tensors and C++ pointers, and a check for undefined tensors.

use std::ptr::null;

use tch::Tensor;

use crate::error::{Error, Result};
use crate::sys::CTensor;

/// Returns the pointer to the C++ tensor, which is valid as long as `tensor` lives.
pub(crate) fn pointer(tensor: &Tensor) -> *const CTensor {
    tensor.as_ptr().cast()
}

pub(crate) fn optional_pointer(tensor: Option<&Tensor>) -> *const CTensor {
    tensor.map_or(null(), pointer)
}

pub(crate) fn pointers<'a>(tensors: impl IntoIterator<Item = &'a Tensor>) -> Vec<*const CTensor> {
    tensors.into_iter().map(pointer).collect()
}

/// Takes ownership of a tensor from C++; null is `None`.
///
/// # Safety
/// `raw` is null, or points to an `at::Tensor` made by `new` that nobody else owns.
pub(crate) unsafe fn from_raw(raw: *mut CTensor) -> Option<Tensor> {
    if raw.is_null() {
        return None;
    }
    // SAFETY: the caller guarantees what `from_ptr` requires.
    Some(unsafe { Tensor::from_ptr(raw.cast()) })
}

/// Passes ownership of a tensor to C++, which deletes it.
pub(crate) fn into_raw(tensor: Tensor) -> *mut CTensor {
    let mut tensor = std::mem::ManuallyDrop::new(tensor);
    tensor.as_mut_ptr().cast()
}

/// Returns an error for an undefined tensor. libtorch's own errors do not name the argument.
pub(crate) fn check_defined<'a>(what: &str, tensors: impl IntoIterator<Item = &'a Tensor>) -> Result<()> {
    match tensors.into_iter().position(|tensor| !tensor.defined()) {
        Some(index) => Err(Error::Argument(format!("{what} {index} is an undefined tensor"))),
        None => Ok(()),
    }
}
