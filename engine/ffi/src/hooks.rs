//! Post-accumulate-grad hooks: call Rust when a parameter's gradient has been accumulated, to start bucketed reductions.

use std::ffi::c_void;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, TryLockError};

use tch::Tensor;

use crate::callback::{BoxError, guard};
use crate::error::{Error, Result};
use crate::sys::{self, HookCallbacks, Status};
use crate::tensors::{check_defined, pointer};

/// Calls `hook` each time a backward pass has accumulated `parameter.grad()`, until the handle is dropped. The
/// counterpart of `torch.Tensor.register_post_accumulate_grad_hook`.
///
/// Pitfalls, each shown by a test:
/// * The hook fires once for each *backward pass* that reaches the weight, even if the pass adds no gradient. A weight
///   that is used twice in one graph fires once. An input of a re-entrant checkpoint (whose backward calls
///   [`crate::backward()`]) fires inside it, and once more, without a new gradient, in the outer pass. Count the expected
///   calls, or let the checkpoint return the gradient (with [`crate::grad`]).
/// * The hook of a weight that the loss does not depend on never fires.
/// * libtorch has one such hook per tensor. A second one is rejected while the first handle is alive.
///
/// Install hooks while no backward pass is running. On CUDA, `hook` runs on the autograd thread of the device.
///
/// # Errors
/// Returns [`Error::Argument`] if `parameter` is not a leaf that requires a gradient, or already has a hook.
/// An error or panic of `hook` ends the backward pass, which returns it.
pub fn on_grad_ready<H>(parameter: &Tensor, hook: H) -> Result<HookHandle>
where
    H: FnMut() -> Result<(), BoxError> + Send + 'static,
{
    check_defined("parameter", [parameter])?;
    if !parameter.requires_grad() || !parameter.is_leaf() {
        return Err(Error::Argument("a gradient hook needs a leaf that requires a gradient".into()));
    }
    let slot = Arc::new(Slot {
        active: AtomicBool::new(true),
        hook: Mutex::new(Some(Box::new(hook))),
    });
    let callbacks = HookCallbacks {
        call,
        active,
        drop: drop_slot,
    };
    let context = Arc::into_raw(Arc::clone(&slot));
    let mut occupied = false;
    // SAFETY: `parameter` is defined and borrowed for the call. `callbacks` expect a `Slot`, of which the C++ hook gets
    // one strong count.
    let status = unsafe { sys::neva_hook_install(pointer(parameter), context.cast_mut().cast(), callbacks, &raw mut occupied) };
    status.check("install a gradient hook")?;
    if occupied {
        return Err(Error::Argument(
            "the parameter already has a gradient hook; drop its handle first".into(),
        ));
    }
    Ok(HookHandle { slot })
}

/// Handle of a hook: dropping it disables the hook and drops its closure.
#[must_use = "dropping the handle removes the hook"]
pub struct HookHandle {
    slot: Arc<Slot>,
}

impl std::fmt::Debug for HookHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HookHandle").finish_non_exhaustive()
    }
}

impl Drop for HookHandle {
    fn drop(&mut self) {
        self.slot.active.store(false, Ordering::Release);
        self.slot.drop_hook_if_inactive();
    }
}

type Hook = Box<dyn FnMut() -> Result<(), BoxError> + Send>;

/// State shared by the handle and the hook that C++ owns. The C++ hook may outlive the handle as an inactive object,
/// because a running engine could be calling it.
struct Slot {
    active: AtomicBool,
    hook: Mutex<Option<Hook>>,
}

impl Slot {
    fn run(&self) -> Result<(), BoxError> {
        let result = match self.hook.try_lock() {
            Ok(mut hook) => match hook.as_mut() {
                Some(hook) if self.active.load(Ordering::Acquire) => hook(),
                _ => Ok(()),
            },
            Err(TryLockError::WouldBlock) => Err("it is already running, in an outer call or in another backward".into()),
            Err(TryLockError::Poisoned(_)) => Err("it panicked before, so it is not called again".into()),
        };
        self.drop_hook_if_inactive();
        result
    }

    /// Drops the closure of a dropped handle. If the closure is running (it may drop its own handle), `run` drops it when
    /// the closure returns.
    fn drop_hook_if_inactive(&self) {
        if self.active.load(Ordering::Acquire) {
            return;
        }
        let dropped = match self.hook.try_lock() {
            Ok(mut hook) => hook.take(),
            Err(TryLockError::Poisoned(hook)) => hook.into_inner().take(),
            Err(TryLockError::WouldBlock) => None,
        };
        drop(dropped);
    }
}

/// # Safety
/// Only the C++ hook calls it, with the context that it owns.
unsafe extern "C" fn call(context: *mut c_void) -> Status {
    // SAFETY: the context is an `Arc<Slot>` of which the C++ hook holds a count; slots are shared immutably.
    let slot = unsafe { &*context.cast::<Slot>() };
    guard("gradient hook", || slot.run())
}

/// # Safety
/// As [`call`].
unsafe extern "C" fn active(context: *mut c_void) -> bool {
    // SAFETY: as in `call`.
    let slot = unsafe { &*context.cast::<Slot>() };
    slot.active.load(Ordering::Acquire)
}

/// # Safety
/// Only the destructor of the C++ hook calls it, once.
unsafe extern "C" fn drop_slot(context: *mut c_void) {
    // SAFETY: `context` came from `Arc::into_raw` in `on_grad_ready`, and its count is released only here.
    let slot = unsafe { Arc::from_raw(context.cast::<Slot>()) };
    let _reported = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(slot)));
}
