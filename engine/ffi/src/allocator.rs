//! Counts the bytes of all CPU tensors of the process: leak tests and memory figures. (The resident set of
//! a small rank is mostly libtorch itself.)

use crate::error::Result;
use crate::sys;

/// Puts the counting allocator in front of libtorch's. Tensors made before are not counted, so call it
/// first; a second call changes nothing.
pub fn install() -> Result<()> {
    // SAFETY: no pointer is passed, and the C++ side installs once, whichever thread comes first.
    unsafe { sys::neva_allocator_install() }.check("install the counting allocator")
}

/// Bytes of CPU tensors alive now.
pub fn live() -> u64 {
    u64::try_from(sys::neva_allocator_live()).unwrap_or(0)
}

/// The most bytes that were alive at once since the start, or since [`reset_peak`].
pub fn peak() -> u64 {
    u64::try_from(sys::neva_allocator_peak()).unwrap_or(0)
}

/// Lets [`peak`] begin again from what is alive now.
pub fn reset_peak() {
    sys::neva_allocator_reset_peak();
}
