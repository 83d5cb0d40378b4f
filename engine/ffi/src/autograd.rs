//! Custom autograd functions, as `torch.autograd.Function`: for tensor-parallel regions, ring attention, recomputation
//! and fused losses.
//!
//! ```no_run
//! # use neva_torch_ffi::{BoxError, Function, apply};
//! # use tch::Tensor;
//! struct Double;
//! impl Function for Double {
//!     fn forward(&mut self, inputs: &[&Tensor]) -> Result<Vec<Tensor>, BoxError> {
//!         Ok(vec![inputs[0].f_mul_scalar(2.0)?])
//!     }
//!     fn backward(&mut self, grads: &[Option<Tensor>]) -> Result<Vec<Option<Tensor>>, BoxError> {
//!         Ok(vec![grads[0].as_ref().map(|g| g.f_mul_scalar(2.0)).transpose()?])
//!     }
//! }
//! # fn main() -> neva_torch_ffi::Result<()> {
//! # let x = Tensor::from(1.0);
//! let y = apply(Double, &[&x])?.remove(0);
//! # Ok(()) }
//! ```

use std::any::type_name;
use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::slice;
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use tch::Tensor;

use crate::callback::{BoxError, chain, guard};
use crate::error::{Error, Result, c_string};
use crate::sys::{self, CTensor, NodeCallbacks, Status, Tensors};
use crate::tensors::{check_defined, into_raw, pointers};

/// A differentiable operation written in Rust. `forward` saves tensors for `backward` in `self`.
///
/// `self` and its saved tensors are dropped as soon as a backward pass without `keep_graph` has run through the node, or
/// when the graph is dropped, or immediately if no graph is recorded.
/// On CPU, `backward` runs on the thread that called [`crate::backward()`]. Deeply nested calls and CUDA tensors use other
/// threads, so the trait requires `Send`.
pub trait Function: Send + 'static {
    /// Computes the outputs, with gradients disabled. `inputs` are the inputs of [`apply`]; their `requires_grad()` shows
    /// which gradients are needed.
    fn forward(&mut self, inputs: &[&Tensor]) -> Result<Vec<Tensor>, BoxError>;

    /// Maps the gradients of the outputs (`None`: the output has no gradient) to the gradients of the inputs, one each
    /// (`None`: zero, or not needed).
    ///
    /// Gradients are disabled; a recomputation enables them with `tch::with_grad`. It then calls [`crate::backward()`] if
    /// captured weights have to accumulate their gradients. [`crate::grad`] silently loses those gradients; it is correct
    /// if all weights are inputs whose gradients are returned (their hooks then fire once, see [`crate::on_grad_ready`]).
    fn backward(&mut self, grads: &[Option<Tensor>]) -> Result<Vec<Option<Tensor>>, BoxError>;
}

/// Runs `function` on `inputs`, and records it in the graph if gradients are enabled and an input requires a gradient.
///
/// Outputs are new tensors over the memory that `forward` returned, so `forward` may return an input. Do not change an
/// output in place that shares memory with an input. Outputs of integer and bool kind are not differentiable.
/// `backward` runs only if one of `inputs` requires a gradient: a function that recomputes must list its trainable weights
/// as inputs, or they silently get no gradient.
///
/// # Errors
/// Returns [`Error::Callback`] with the text of `forward`'s error, and [`Error::Argument`] for an undefined tensor.
/// The call that starts the backward pass returns the errors and panics of `backward`.
pub fn apply<F: Function>(mut function: F, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
    let name = type_name::<F>();
    check_defined("input", inputs.iter().copied())?;
    let outputs = {
        let _no_grad = tch::no_grad_guard();
        function
            .forward(inputs)
            .map_err(|error| Error::Callback(format!("forward of {name}: {}", chain(&*error))))?
    };
    check_defined(&format!("forward of {name}: output"), &outputs)?;

    let c_name = c_string("function", name)?;
    let (input_pointers, output_pointers) = (pointers(inputs.iter().copied()), pointers(&outputs));
    let state = Box::new(State {
        name,
        function: Mutex::new(Some(Box::new(function))),
    });
    let callbacks = NodeCallbacks {
        backward,
        release,
        drop: drop_state,
    };
    // SAFETY: the pointers are of tensors that `inputs` and `outputs` hold during the call. Only we own the `outputs`
    // that the call replaces. `callbacks` expect a `State`, whose ownership goes to the node.
    let status = unsafe {
        sys::neva_node_record(
            Box::into_raw(state).cast(),
            callbacks,
            c_name.as_ptr(),
            input_pointers.as_ptr(),
            input_pointers.len(),
            output_pointers.as_ptr(),
            output_pointers.len(),
        )
    };
    status.check("record a custom autograd function")?;
    Ok(outputs)
}

/// Returns whether this thread records graphs: not within `tch::no_grad`. A view there still says that it requires a gradient.
pub fn is_grad_enabled() -> bool {
    sys::neva_grad_enabled()
}

/// State that the C++ node owns.
struct State {
    name: &'static str,
    /// `None` after the saved state was released.
    function: Mutex<Option<Box<dyn Function>>>,
}

impl State {
    /// # Safety
    /// `context` is the one passed to `neva_node_record`, and its node is alive.
    unsafe fn from_context<'a>(context: *mut c_void) -> &'a Self {
        // SAFETY: guaranteed by the caller. The node frees the state only in its destructor, and the state is shared
        // immutably (a mutex guards the function).
        unsafe { &*context.cast::<Self>() }
    }

    fn run(&self, grads: &[Option<Tensor>], expected: usize) -> Result<Vec<Option<Tensor>>, BoxError> {
        let mut function: MutexGuard<'_, _> = match self.function.try_lock() {
            Ok(function) => function,
            Err(TryLockError::WouldBlock) => {
                return Err("it is already running: do not run backward over one graph from two threads, or from inside itself".into());
            }
            Err(TryLockError::Poisoned(_)) => return Err("it panicked before, so its state may be inconsistent".into()),
        };
        let Some(function) = function.as_mut() else {
            return Err("its saved state was freed by an earlier backward; pass keep_graph = true to the earlier one".into());
        };
        let results = function.backward(grads)?;
        if results.len() != expected {
            return Err(format!("returned {} gradients for {expected} inputs", results.len()).into());
        }
        Ok(results)
    }
}

/// # Safety
/// Only the node calls it: `context` is its state, and the arrays have the given lengths.
unsafe extern "C" fn backward(
    context: *mut c_void,
    grads: Tensors,
    grad_count: usize,
    results: *mut *mut CTensor,
    result_count: usize,
) -> Status {
    // SAFETY: the node passes its own context.
    let state = unsafe { State::from_context(context) };
    guard(&format!("backward of {}", state.name), || {
        let grads = if grad_count == 0 {
            &[]
        } else {
            // SAFETY: the node passes the data and length of a vector that lives during the call.
            unsafe { slice::from_raw_parts(grads, grad_count) }
        };
        let grads: Vec<Option<Tensor>> = grads.iter().map(|grad| clone_borrowed(*grad)).collect();
        let gradients = state.run(&grads, result_count)?;
        for (index, gradient) in gradients.into_iter().enumerate() {
            let raw = gradient.filter(Tensor::defined).map_or(std::ptr::null_mut(), into_raw);
            // SAFETY: `results` has room for `result_count` pointers, and there are as many gradients.
            let slot = unsafe { results.add(index) };
            // SAFETY: `slot` is inside the node's vector (see above), which nothing else accesses during the call.
            unsafe { slot.write(raw) };
        }
        Ok(())
    })
}

/// Clones the handle of a tensor that C++ lends; null is `None`.
fn clone_borrowed(borrowed: *const CTensor) -> Option<Tensor> {
    if borrowed.is_null() {
        return None;
    }
    // SAFETY: the node lends pointers to defined tensors that live during the callback, and `clone_from_ptr` only reads
    // through the pointer.
    Some(unsafe { Tensor::clone_from_ptr(borrowed.cast_mut().cast()) })
}

/// # Safety
/// Only the node calls it, after its backward has run without `keep_graph`.
unsafe extern "C" fn release(context: *mut c_void) {
    // SAFETY: the node passes its own context.
    let state = unsafe { State::from_context(context) };
    let function = state.function.lock().unwrap_or_else(PoisonError::into_inner).take();
    catch_panic(|| drop(function));
}

/// # Safety
/// Only the node's destructor calls it, once.
unsafe extern "C" fn drop_state(context: *mut c_void) {
    // SAFETY: `context` came from `Box::into_raw` in `apply`, and is freed only here.
    let state = unsafe { Box::from_raw(context.cast::<State>()) };
    catch_panic(|| drop(state));
}

/// Catches a panic of a destructor, which must not unwind into C++. The panic hook has reported it.
fn catch_panic(body: impl FnOnce()) {
    let _reported = catch_unwind(AssertUnwindSafe(body));
}
