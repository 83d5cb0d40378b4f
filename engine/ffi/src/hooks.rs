//! Calls back when a parameter's gradient has been accumulated: bucketed reductions start here.

use std::ffi::c_void;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, TryLockError};

use tch::Tensor;

use crate::callback::{BoxError, guard};
use crate::error::{Error, Result};
use crate::sys::{self, HookCallbacks, Status};
use crate::tensors::{check_defined, pointer};

/// Calls `hook` each time a backward pass is through with `parameter.grad()`, until the handle drops.
///
/// Traps, each shown by a test:
/// * It fires once for each *walk* that reaches the weight, whether or not that brought a gradient. A weight
///   used twice in one graph fires once. One that is an input of a re-entrant checkpoint (whose backward
///   calls [`crate::backward()`]) fires inside it, and once more, with nothing new, for the walk around it:
///   count the firings that are expected, or let the checkpoint return the gradient (by [`crate::grad`]).
/// * A weight that the loss does not depend on never fires.
/// * libtorch keeps one hook per tensor; a second one is refused while the first handle lives.
///
/// Install hooks while no backward pass runs. On CUDA, `hook` runs on the thread of the device.
///
/// # Errors
/// [`Error::Argument`] if `parameter` is no leaf that requires a gradient, or has a hook already.
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
    let mut taken = false;
    // SAFETY: `parameter` is defined and borrowed for the call; `callbacks` are made for a `Slot`, of
    // which one strong count goes to the C++ hook.
    let status = unsafe { sys::neva_hook_install(pointer(parameter), context.cast_mut().cast(), callbacks, &raw mut taken) };
    status.check("install a gradient hook")?;
    if taken {
        return Err(Error::Argument(
            "the parameter has a gradient hook already; drop its handle first".into(),
        ));
    }
    Ok(HookHandle { slot })
}

/// Keeps a hook alive: dropping it disables the hook and drops its closure.
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
        self.slot.forget_if_inactive();
    }
}

type Hook = Box<dyn FnMut() -> Result<(), BoxError> + Send>;

/// Shared by the handle and the hook that C++ owns, which may outlive it as an inert object: a running
/// engine could be calling it.
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
            Err(TryLockError::WouldBlock) => Err("it is running already, further up or in another backward".into()),
            Err(TryLockError::Poisoned(_)) => Err("it panicked before, so it is not called again".into()),
        };
        self.forget_if_inactive();
        result
    }

    /// Drops the closure of a dropped handle. While it runs (perhaps it dropped its own handle), `run`
    /// does this on its way out.
    fn forget_if_inactive(&self) {
        if self.active.load(Ordering::Acquire) {
            return;
        }
        let forgotten = match self.hook.try_lock() {
            Ok(mut hook) => hook.take(),
            Err(TryLockError::Poisoned(hook)) => hook.into_inner().take(),
            Err(TryLockError::WouldBlock) => None,
        };
        drop(forgotten);
    }
}

/// # Safety
/// Called by the C++ hook only, with the context that it owns.
unsafe extern "C" fn call(context: *mut c_void) -> Status {
    // SAFETY: the context is an `Arc<Slot>` whose count the C++ hook holds; slots are shared immutably.
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
/// Called once, when the C++ hook is destroyed.
unsafe extern "C" fn drop_slot(context: *mut c_void) {
    // SAFETY: `context` came from `Arc::into_raw` in `on_grad_ready`, and this is the end of that count.
    let slot = unsafe { Arc::from_raw(context.cast::<Slot>()) };
    let _reported = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(slot)));
}
