//! Counting allocator for all CPU tensors of the process, for leak tests and memory measurements. (The resident set
//! size of a small rank is mostly libtorch itself.)

use crate::error::Result;
use crate::sys;

/// Installs the counting allocator in front of libtorch's. Earlier tensors are not counted, so call it before the
/// first tensor. Further calls have no effect.
pub fn install() -> Result<()> {
    // SAFETY: no pointer is passed, and the C++ side installs the allocator once, also with several threads.
    unsafe { sys::neva_allocator_install() }.check("install the counting allocator")
}

/// Returns the bytes of all live CPU tensors.
pub fn live() -> u64 {
    u64::try_from(sys::neva_allocator_live()).unwrap_or(0)
}

/// Returns the maximum of [`live`] since the start or since [`reset_peak`].
pub fn peak() -> u64 {
    u64::try_from(sys::neva_allocator_peak()).unwrap_or(0)
}

/// Resets [`peak`] to the current value of [`live`].
pub fn reset_peak() {
    sys::neva_allocator_reset_peak();
}
