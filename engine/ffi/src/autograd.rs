//! Custom autograd functions: tensor-parallel conjugates, ring attention, recomputation, fused losses.
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
use crate::tensors::{check_defined, give, pointers};

/// A differentiable operation written in Rust. What `forward` saves for `backward` lives in `self`.
///
/// `self` is dropped, and saved tensors with it, as soon as a backward that does not keep the graph has
/// run through it, or when the graph itself goes, or at once where no graph is recorded.
/// On CPU `backward` runs on the thread that called [`crate::backward`] (deeply nested calls, and CUDA
/// tensors, use other threads), hence `Send`.
pub trait Function: Send + 'static {
    /// Computes the outputs, with gradients off. `inputs` are those given to [`apply`] and still tell
    /// `requires_grad()`, so that gradients nobody wants need not be prepared for.
    fn forward(&mut self, inputs: &[&Tensor]) -> Result<Vec<Tensor>, BoxError>;

    /// Maps the gradients of the outputs (`None`: no gradient reached it) to those of the inputs, one
    /// each (`None`: zero, or not needed). Gradients are off; `tch::with_grad` turns them on for a
    /// recomputation. Its inner call is [`crate::backward()`] where weights that it captured have to
    /// accumulate; [`crate::grad`] loses those, silently, and is right when all weights are inputs whose
    /// gradients are returned (hooks on them then fire once, see [`crate::on_grad_ready`]).
    fn backward(&mut self, grads: &[Option<Tensor>]) -> Result<Vec<Option<Tensor>>, BoxError>;
}

/// Runs `function` on `inputs` and, if gradients are on and an input requires one, records it.
///
/// Outputs are new tensors over the memory that `forward` returned, so an identity is safe; do not
/// change an output in place that shares memory with an input. Outputs of integer and bool kind are not
/// differentiable. `backward` runs only if one of `inputs` requires a gradient: a function that recomputes
/// must list its trainable weights as inputs, or they silently get no gradient.
///
/// # Errors
/// [`Error::Callback`] with the text of `forward`'s error; [`Error::Argument`] for an undefined tensor.
/// `backward`'s errors and panics come out of the call that started the backward pass.
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
    // SAFETY: the pointers are of tensors that `inputs` and `outputs` hold during the call; `outputs` are
    // ours alone to be replaced; `callbacks` are made for the `State` whose ownership goes to the node.
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

/// What the C++ node owns.
struct State {
    name: &'static str,
    /// None once the saved state was released.
    function: Mutex<Option<Box<dyn Function>>>,
}

impl State {
    /// # Safety
    /// `context` is the one given to `neva_node_record`, whose node is alive.
    unsafe fn from_context<'a>(context: *mut c_void) -> &'a Self {
        // SAFETY: the caller's promise; the node frees the state only in its destructor, and the state is
        // shared immutably (its mutex guards the rest).
        unsafe { &*context.cast::<Self>() }
    }

    fn run(&self, grads: &[Option<Tensor>], expected: usize) -> Result<Vec<Option<Tensor>>, BoxError> {
        let mut function: MutexGuard<'_, _> = match self.function.try_lock() {
            Ok(function) => function,
            Err(TryLockError::WouldBlock) => {
                return Err("it is running already: a graph may not be walked by two threads at once, nor from inside itself".into());
            }
            Err(TryLockError::Poisoned(_)) => return Err("it panicked before, so its state is not trusted".into()),
        };
        let Some(function) = function.as_mut() else {
            return Err("its saved state was freed by an earlier backward; pass keep_graph = true to that one".into());
        };
        let results = function.backward(grads)?;
        if results.len() != expected {
            return Err(format!("returned {} gradients for {expected} inputs", results.len()).into());
        }
        Ok(results)
    }
}

/// # Safety
/// Called by the node only: `context` is its state, the arrays have the given lengths.
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
            // SAFETY: the node passes a vector's data with its length; it lives during the call.
            unsafe { slice::from_raw_parts(grads, grad_count) }
        };
        let grads: Vec<Option<Tensor>> = grads.iter().map(|grad| clone(*grad)).collect();
        let gradients = state.run(&grads, result_count)?;
        for (index, gradient) in gradients.into_iter().enumerate() {
            let raw = gradient.filter(Tensor::defined).map_or(std::ptr::null_mut(), give);
            // SAFETY: `results` has room for `result_count` pointers, and there are as many gradients.
            let slot = unsafe { results.add(index) };
            // SAFETY: `slot` is inside the node's vector (above), which nothing else touches meanwhile.
            unsafe { slot.write(raw) };
        }
        Ok(())
    })
}

/// A second handle on a tensor that C++ lends; null is none.
fn clone(lent: *const CTensor) -> Option<Tensor> {
    if lent.is_null() {
        return None;
    }
    // SAFETY: the node lends pointers to defined tensors of its argument, alive during the callback;
    // `clone_from_ptr` only reads through the pointer.
    Some(unsafe { Tensor::clone_from_ptr(lent.cast_mut().cast()) })
}

/// # Safety
/// Called by the node only, after its backward has run and the graph is not kept.
unsafe extern "C" fn release(context: *mut c_void) {
    // SAFETY: the node passes its own context.
    let state = unsafe { State::from_context(context) };
    let function = state.function.lock().unwrap_or_else(PoisonError::into_inner).take();
    quietly(|| drop(function));
}

/// # Safety
/// Called by the node's destructor, once.
unsafe extern "C" fn drop_state(context: *mut c_void) {
    // SAFETY: `context` came from `Box::into_raw` in `apply`, and this is its only end.
    let state = unsafe { Box::from_raw(context.cast::<State>()) };
    quietly(|| drop(state));
}

/// A panicking destructor may not unwind into C++; the panic hook has reported it, nothing depends on it.
fn quietly(body: impl FnOnce()) {
    let _reported = catch_unwind(AssertUnwindSafe(body));
}
