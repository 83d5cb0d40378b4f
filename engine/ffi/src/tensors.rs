//! `tch` tensors as C++ pointers and back, and the checks that every list of tensors needs.

use std::ptr::null;

use tch::Tensor;

use crate::error::{Error, Result};
use crate::sys::CTensor;

/// The C++ tensor behind `tensor`. It lives as long as `tensor`.
pub(crate) fn pointer(tensor: &Tensor) -> *const CTensor {
    tensor.as_ptr().cast()
}

pub(crate) fn optional_pointer(tensor: Option<&Tensor>) -> *const CTensor {
    tensor.map_or(null(), pointer)
}

pub(crate) fn pointers<'a>(tensors: impl IntoIterator<Item = &'a Tensor>) -> Vec<*const CTensor> {
    tensors.into_iter().map(pointer).collect()
}

/// Takes a tensor that C++ gave away; null is none.
///
/// # Safety
/// `raw` is null, or points to an `at::Tensor` made by `new` that nobody else owns.
pub(crate) unsafe fn take(raw: *mut CTensor) -> Option<Tensor> {
    if raw.is_null() {
        return None;
    }
    // SAFETY: the caller's promise is the one that `from_ptr` asks for.
    Some(unsafe { Tensor::from_ptr(raw.cast()) })
}

/// Gives a tensor to C++, which deletes it.
pub(crate) fn give(tensor: Tensor) -> *mut CTensor {
    let mut tensor = std::mem::ManuallyDrop::new(tensor);
    tensor.as_mut_ptr().cast()
}

/// Undefined tensors make libtorch fail with texts that name no argument.
pub(crate) fn check_defined<'a>(what: &str, tensors: impl IntoIterator<Item = &'a Tensor>) -> Result<()> {
    match tensors.into_iter().position(|tensor| !tensor.defined()) {
        Some(index) => Err(Error::Argument(format!("{what} {index} is an undefined tensor"))),
        None => Ok(()),
    }
}
