//! Views of tensors in data types that `tch` does not name.

use crate::error::{Error, Result};
use crate::sys;
use crate::tensors::{check_defined, from_raw, pointer};
use std::ptr::null_mut;
use tch::{Kind, Tensor};

/// Returns bytes as E8M0 numbers `2^(byte - 127)`, the scales of MXFP8, in the same memory. `tch` has no name for their data
/// type: its `kind` panics, and only operators of libtorch take them.
///
/// # Errors
/// The tensor does not consist of bytes, or libtorch refused.
pub fn view_e8m0(bytes: &Tensor) -> Result<Tensor> {
    check_defined("bytes", [bytes])?;
    if bytes.kind() != Kind::Uint8 {
        return Err(Error::Argument(format!("E8M0 numbers are bytes, not {:?}", bytes.kind())));
    }
    let mut out = null_mut();
    // SAFETY: `bytes` is defined and borrowed for the call, and `out` is valid to write to.
    unsafe { sys::neva_view_e8m0(pointer(bytes), &raw mut out) }.check("view as E8M0")?;
    // SAFETY: on success `out` points to a new tensor that C++ gave to us.
    unsafe { from_raw(out) }.ok_or_else(|| Error::Argument("the view is undefined".into()))
}
