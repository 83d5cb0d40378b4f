//! Post-accumulate-grad hooks: number of calls, removal and failures.
#![expect(clippy::unwrap_used, reason = "test helpers may unwrap")]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use neva_torch_ffi::{BoxError, Error, Function, HookHandle, apply, backward, grad, on_grad_ready, owns_memory, take_grad};
use tch::{Device, Kind, Tensor};

fn leaf(values: &[f32]) -> Tensor {
    Tensor::from_slice(values).set_requires_grad(true)
}

fn run(loss: &Tensor) -> Result<(), Error> {
    backward(&[&loss.sum(Kind::Float)], &[None], false)
}

fn counter(parameter: &Tensor) -> (HookHandle, impl Fn() -> usize + use<>) {
    let fired = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&fired);
    let handle = on_grad_ready(parameter, move || {
        count.fetch_add(1, Ordering::SeqCst);
        Ok(())
    });
    (handle.unwrap(), move || fired.load(Ordering::SeqCst))
}

/// Activation checkpoint of `x * w`.
struct Checkpoint {
    saved: Vec<Tensor>,
    /// If true, the recomputation accumulates into `w` (re-entrant `backward`). If false, it returns the gradient of `w`
    /// (`grad`), and the outer graph accumulates it.
    accumulates: bool,
}

fn checkpoint(x: &Tensor, w: &Tensor, accumulates: bool) -> Tensor {
    apply(
        Checkpoint {
            saved: vec![],
            accumulates,
        },
        &[x, w],
    )
    .unwrap()
    .remove(0)
}

impl Function for Checkpoint {
    fn forward(&mut self, inputs: &[&Tensor]) -> Result<Vec<Tensor>, BoxError> {
        self.saved = inputs.iter().map(|input| input.shallow_clone()).collect();
        Ok(vec![inputs[0].f_mul(inputs[1])?])
    }
    fn backward(&mut self, grads: &[Option<Tensor>]) -> Result<Vec<Option<Tensor>>, BoxError> {
        let (x, w) = (self.saved[0].detach().set_requires_grad(true), &self.saved[1]);
        let y = tch::with_grad(|| &x * w);
        if self.accumulates {
            backward(&[&y], &[grads[0].as_ref()], false)?;
            return Ok(vec![Some(x.grad()), None]);
        }
        Ok(grad(&[&y], &[grads[0].as_ref()], &[&x, w], false)?)
    }
}

/// Pitfall: the number of calls depends on the use of the weight.
#[test]
fn number_of_hook_calls() {
    let check = |loss: fn(&Tensor, &Tensor) -> Tensor, expect: usize, gradient: f32| {
        let (x, w) = (leaf(&[2.0, 2.0]), leaf(&[5.0, 5.0]));
        let (_handle, fired) = counter(&w);
        run(&loss(&x, &w)).unwrap();
        let found: Vec<f32> = if w.grad().defined() {
            Vec::try_from(w.grad()).unwrap()
        } else {
            vec![0.0; 2]
        };
        assert_eq!((fired(), found), (expect, vec![gradient; 2]));
    };
    check(|x, w| x * w, 1, 2.0);
    // Used twice in one graph: one call.
    check(|x, w| x * w + w * 2.0, 1, 4.0);
    // Used inside a re-entrant checkpoint: one call in the inner pass, one without a new gradient in the outer pass.
    check(|x, w| checkpoint(x, w, true), 2, 2.0);
    check(|x, w| checkpoint(x, w, true) + w * 2.0, 2, 4.0);
    check(|x, w| checkpoint(x, w, true) + checkpoint(x, w, true), 3, 4.0);
    // A checkpoint that returns the gradient is like any other operation: one call.
    check(|x, w| checkpoint(x, w, false), 1, 2.0);
    check(|x, w| checkpoint(x, w, false) + w * 2.0, 1, 4.0);
    check(|x, w| checkpoint(x, w, false) + checkpoint(x, w, false), 1, 4.0);
    // Unused: no call.
    check(|x, _| x * 3.0, 0, 0.0);
}

#[test]
fn the_gradient_is_accumulated_before_the_hook_runs() {
    let w = leaf(&[5.0]);
    let (seen, log) = (Arc::new(Mutex::new(vec![])), w.shallow_clone());
    let into = Arc::clone(&seen);
    let _handle = on_grad_ready(&w, move || {
        into.lock().unwrap().push(log.grad().f_double_value(&[0])?);
        Ok(())
    });
    run(&(&w * 3.0)).unwrap();
    run(&(&w * 4.0)).unwrap();
    assert_eq!(*seen.lock().unwrap(), [3.0, 7.0]);
}

#[test]
fn a_dropped_handle_removes_the_hook() {
    let w = leaf(&[1.0]);
    let held = Arc::new(());
    let weak = Arc::downgrade(&held);
    let handle = on_grad_ready(&w, move || {
        let _ = &held;
        Ok(())
    });
    let second = on_grad_ready(&w, || Ok(())).unwrap_err();
    assert!(second.to_string().contains("already has a gradient hook"), "{second}");
    drop(handle);
    assert!(weak.upgrade().is_none(), "the closure is dropped with the handle");
    run(&(&w * 1.0)).unwrap();
    let (_handle, fired) = counter(&w);
    run(&(&w * 1.0)).unwrap();
    assert_eq!(fired(), 1, "another hook can be installed");
}

#[test]
fn a_hook_may_drop_its_own_handle() {
    let w = leaf(&[1.0]);
    let slot: Arc<Mutex<Option<HookHandle>>> = Arc::default();
    let (own, fired) = (Arc::clone(&slot), Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&fired);
    let handle = on_grad_ready(&w, move || {
        count.fetch_add(1, Ordering::SeqCst);
        own.lock().unwrap().take();
        Ok(())
    });
    *slot.lock().unwrap() = Some(handle.unwrap());
    run(&(&w * 1.0)).unwrap();
    run(&(&w * 1.0)).unwrap();
    assert_eq!(fired.load(Ordering::SeqCst), 1);
    assert_eq!(Arc::strong_count(&fired), 1, "the closure was dropped when it returned");
}

#[test]
fn failures_end_the_backward_pass() {
    let check = |hook: fn() -> Result<(), BoxError>, expect: &str| {
        let w = leaf(&[1.0]);
        let _handle = on_grad_ready(&w, hook).unwrap();
        assert_eq!(run(&(&w * 1.0)).unwrap_err().to_string(), expect);
    };
    check(|| Err("bucket 3 is full".into()), "gradient hook: bucket 3 is full");
    check(|| panic!("lost"), "gradient hook: panicked: lost");
    for bad in [&leaf(&[1.0]) * 2.0, Tensor::from_slice(&[1f32]), Tensor::new()] {
        assert!(matches!(on_grad_ready(&bad, || Ok(())), Err(Error::Argument(_))));
    }
}

/// Returns whether the gradients of two leaves `[4, 4]` own their memory in their hooks. `loss` receives an input `[2, 4]`, too.
fn owners(loss: fn(&Tensor, &Tensor, &Tensor) -> Tensor) -> [bool; 2] {
    let matrix = |rows| Tensor::ones([rows, 4], (Kind::Float, Device::Cpu));
    let leaves = [4, 4].map(|rows| matrix(rows).set_requires_grad(true));
    let seen: [Arc<Mutex<Vec<bool>>>; 2] = Default::default();
    let hooks = leaves.iter().zip(&seen).map(|(leaf, seen)| {
        let (own, seen) = (leaf.shallow_clone(), Arc::clone(seen));
        on_grad_ready(leaf, move || {
            let grad = take_grad(&own)?.ok_or("no gradient")?;
            seen.lock().unwrap().push(owns_memory(&grad)?);
            Ok(())
        })
    });
    let _hooks: Vec<_> = hooks.map(Result::unwrap).collect();
    run(&loss(&leaves[0], &leaves[1], &(matrix(2) * 3.0))).unwrap();
    seen.map(|seen| match seen.lock().unwrap()[..] {
        [owns] => owns,
        ref calls => panic!("one call for each leaf: {calls:?}"),
    })
}

#[test]
fn a_hook_sees_whether_others_have_the_memory_of_a_gradient() {
    // Products, also those of transposed weights, whose gradients are views.
    assert_eq!(owners(|a, b, x| x.matmul(a).matmul(b)), [true, true]);
    assert_eq!(owners(|a, b, x| x.matmul(&a.tr()).matmul(&b.tr())), [true, true]);
    assert_eq!(
        owners(|a, b, x| x.linear(a, None::<Tensor>).linear(b, None::<Tensor>)),
        [true, true]
    );
    // libtorch copies a tensor that both get, and what is not laid out as the leaf.
    assert_eq!(owners(|a, b, x| x.matmul(&(a + b))), [true, true]);
    assert_eq!(owners(|a, b, _| a.tr() + b.sum(Kind::Float)), [true, true]);
    assert_eq!(owners(|a, b, x| x.matmul(&Tensor::cat(&[a, b], 1))), [true, true]);
    // Two views of one tensor; `b` gets the first one.
    assert_eq!(
        owners(|a, b, x| x.matmul(&(a.view([2, 8]) + b.view([2, 8])).view([4, 4]))),
        [true, false]
    );
    // A view that the rest of the pass reads.
    assert_eq!(
        owners(|a, b, x| x.matmul(&((b * 3.0).view([4, 4]) + a.view([4, 4])))),
        [false, true]
    );
    // Parts of one tensor, also the last one.
    assert_eq!(owners(|a, b, x| x.matmul(&Tensor::cat(&[a, b], 0).view([4, 8]))), [false, false]);
}
