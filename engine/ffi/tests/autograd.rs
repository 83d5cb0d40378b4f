//! Custom autograd functions: gradients, lifetime of the saved state, and failures.
#![expect(clippy::unwrap_used, reason = "test helpers may unwrap")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use neva_torch_ffi::{BoxError, Error, Function, apply, backward, grad, is_grad_enabled};
use tch::{Kind, Tensor};

type Grads = Vec<Option<Tensor>>;
type Forward = fn(&[&Tensor]) -> Result<Vec<Tensor>, BoxError>;
type Backward = Box<dyn FnMut(&[Option<Tensor>]) -> Result<Grads, BoxError> + Send>;

/// A function made of two closures.
struct Closures(Forward, Backward);

impl Function for Closures {
    fn forward(&mut self, inputs: &[&Tensor]) -> Result<Vec<Tensor>, BoxError> {
        (self.0)(inputs)
    }
    fn backward(&mut self, grads: &[Option<Tensor>]) -> Result<Grads, BoxError> {
        (self.1)(grads)
    }
}

fn node(
    inputs: &[&Tensor],
    forward: Forward,
    backward: impl FnMut(&[Option<Tensor>]) -> Result<Grads, BoxError> + Send + 'static,
) -> Result<Vec<Tensor>, Error> {
    apply(Closures(forward, Box::new(backward)), inputs)
}

fn identity(inputs: &[&Tensor]) -> Result<Vec<Tensor>, BoxError> {
    Ok(inputs.iter().map(|input| input.shallow_clone()).collect())
}

fn pass(grads: &[Option<Tensor>]) -> Result<Grads, BoxError> {
    Ok(grads.iter().map(|grad| grad.as_ref().map(Tensor::shallow_clone)).collect())
}

fn leaf(values: &[f32]) -> Tensor {
    Tensor::from_slice(values).set_requires_grad(true)
}

fn values(tensor: &Tensor) -> Vec<f32> {
    Vec::try_from(tensor).unwrap()
}

/// Returns the accumulated gradient, or an empty list if there is none.
fn grad_of(leaf: &Tensor) -> Vec<f32> {
    if leaf.grad().defined() { values(&leaf.grad()) } else { vec![] }
}

fn sum_backward(output: &Tensor) -> Result<(), Error> {
    backward(&[&output.sum(Kind::Float)], &[None], false)
}

/// Multiplies its two inputs; returns their product, their sum and a non-differentiable comparison.
struct Mixed {
    saved: Vec<Tensor>,
    seen: Arc<std::sync::Mutex<Vec<bool>>>,
}

impl Function for Mixed {
    fn forward(&mut self, inputs: &[&Tensor]) -> Result<Vec<Tensor>, BoxError> {
        let [a, b] = inputs else {
            return Err("two inputs are required".into());
        };
        self.saved = vec![a.shallow_clone(), b.shallow_clone()];
        Ok(vec![a.f_mul(b)?, a.f_gt_tensor(b)?, a.f_add(b)?])
    }
    fn backward(&mut self, grads: &[Option<Tensor>]) -> Result<Grads, BoxError> {
        *self.seen.lock().unwrap() = grads.iter().map(Option::is_some).collect();
        let zero = self.saved[0].f_zeros_like()?;
        let product = grads[0].as_ref().unwrap_or(&zero);
        let sum = grads[2].as_ref().unwrap_or(&zero);
        Ok(vec![
            Some(product.f_mul(&self.saved[1])?.f_add(sum)?),
            Some(product.f_mul(&self.saved[0])?.f_add(sum)?),
        ])
    }
}

#[test]
fn several_inputs_and_outputs() {
    let check = |which: &[usize], seen: [bool; 3], da: f32, db: f32| {
        let (a, b) = (leaf(&[2.0]), leaf(&[5.0]));
        let log = Arc::default();
        let outputs = apply(
            Mixed {
                saved: vec![],
                seen: Arc::clone(&log),
            },
            &[&a, &b],
        )
        .unwrap();
        assert_eq!(outputs.iter().map(Tensor::requires_grad).collect::<Vec<_>>(), [true, false, true]);
        let used: Vec<&Tensor> = which.iter().map(|index| &outputs[*index]).collect();
        backward(&used, &vec![None; used.len()], false).unwrap();
        // An output without a gradient is None, and the indices do not shift.
        assert_eq!(*log.lock().unwrap(), seen);
        assert_eq!((grad_of(&a), grad_of(&b)), (vec![da], vec![db]));
    };
    check(&[0], [true, false, false], 5.0, 2.0);
    check(&[2], [false, false, true], 1.0, 1.0);
    check(&[0, 2], [true, false, true], 6.0, 3.0);
}

/// Pitfall: a node that returns its input unchanged would count its gradient twice.
#[test]
fn identity_counts_its_gradient_once() {
    let x = leaf(&[1.0]);
    let h = &x * 1.0;
    let ten = |grads: &[Option<Tensor>]| -> Result<Grads, BoxError> {
        Ok(grads.iter().map(|grad| grad.as_ref().map(|grad| grad * 10.0)).collect())
    };
    let y = node(&[&h], identity, ten).unwrap().remove(0);
    sum_backward(&(&h + &y)).unwrap();
    assert_eq!(grad_of(&x), [11.0]);
}

/// Pitfall: a checkpoint runs backward only if one of its *inputs* requires a gradient.
#[test]
fn checkpoint_needs_its_weights_as_inputs() {
    let check = |weight_is_input: bool, expect: Option<f32>| {
        let (x, w) = (Tensor::from_slice(&[2f32]), leaf(&[3.0]));
        let (x2, w2) = (x.shallow_clone(), w.shallow_clone());
        let recompute = move |grads: &[Option<Tensor>]| -> Result<Grads, BoxError> {
            let again = tch::with_grad(|| &x2 * &w2);
            backward(&[&again], &[grads[0].as_ref()], false)?;
            Ok(if weight_is_input { vec![None, None] } else { vec![None] })
        };
        let inputs: &[&Tensor] = if weight_is_input { &[&x, &w] } else { &[&x] };
        let y = node(inputs, |inputs| Ok(vec![inputs[0].f_mul_scalar(3.0)?]), recompute)
            .unwrap()
            .remove(0);
        assert_eq!(y.requires_grad(), expect.is_some());
        let ran = sum_backward(&y);
        match expect {
            Some(gradient) => {
                ran.unwrap();
                assert_eq!(grad_of(&w), [gradient]);
            }
            None => assert!(ran.unwrap_err().to_string().contains("requires no gradient")),
        }
    };
    check(false, None);
    check(true, Some(2.0));
}

/// Counts its drops, and saves its input and its own output.
struct Counted {
    drops: Arc<AtomicUsize>,
    saved: Vec<Tensor>,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.drops.fetch_add(1, Ordering::SeqCst);
    }
}

impl Function for Counted {
    fn forward(&mut self, inputs: &[&Tensor]) -> Result<Vec<Tensor>, BoxError> {
        let y = inputs[0].f_mul_scalar(1.0)?;
        self.saved = vec![inputs[0].shallow_clone(), y.shallow_clone()];
        Ok(vec![y])
    }
    fn backward(&mut self, grads: &[Option<Tensor>]) -> Result<Grads, BoxError> {
        pass(grads)
    }
}

fn counted(x: &Tensor) -> (Tensor, impl Fn() -> usize + use<>) {
    let drops = Arc::new(AtomicUsize::new(0));
    let y = apply(
        Counted {
            drops: Arc::clone(&drops),
            saved: vec![],
        },
        &[x],
    )
    .unwrap()
    .remove(0);
    (y, move || drops.load(Ordering::SeqCst))
}

#[test]
fn state_is_freed_exactly_once() {
    // The backward pass through it frees the state, while the output still exists. A second pass returns an error.
    let x = leaf(&[1.0]);
    let (y, drops) = counted(&x);
    assert_eq!(drops(), 0);
    backward(&[&y], &[None], true).unwrap();
    assert_eq!(drops(), 0, "keep_graph keeps it");
    backward(&[&y], &[None], false).unwrap();
    assert_eq!((drops(), grad_of(&x)), (1, vec![2.0]));
    let again = backward(&[&y], &[None], false).unwrap_err().to_string();
    assert!(again.contains("Counted") && again.contains("keep_graph = true"), "{again}");
    drop(y);
    assert_eq!(drops(), 1);

    // Without a backward pass, dropping the graph frees it: saving its own output creates no cycle.
    let (y, drops) = counted(&x);
    drop(y);
    assert_eq!(drops(), 1);

    // Without a recorded graph, it is freed immediately: gradients are disabled, or no input requires one.
    let (y, drops) = tch::no_grad(|| counted(&x));
    assert_eq!((drops(), y.requires_grad()), (1, false));
    let (y, drops) = counted(&x.detach());
    assert_eq!((drops(), y.requires_grad()), (1, false));
}

/// Memory is freed during the backward pass, although the loss still exists.
#[test]
fn state_is_freed_node_by_node() {
    let (x, drops) = (leaf(&[1.0]), Arc::new(AtomicUsize::new(0)));
    let (seen, counter) = (Arc::new(AtomicUsize::new(9)), Arc::clone(&drops));
    let log = Arc::clone(&seen);
    let first = node(&[&x], identity, move |grads| {
        log.store(counter.load(Ordering::SeqCst), Ordering::SeqCst);
        pass(grads)
    });
    let last = apply(
        Counted {
            drops: Arc::clone(&drops),
            saved: vec![],
        },
        &[&first.unwrap()[0]],
    )
    .unwrap();
    backward(&[&last[0]], &[None], false).unwrap();
    assert_eq!(seen.load(Ordering::SeqCst), 1, "the node that ran before has freed its state");
}

#[test]
fn failures_come_back_with_their_text() {
    let check = |function: fn(&[Option<Tensor>]) -> Result<Grads, BoxError>, panics: bool, text: &str| {
        let x = leaf(&[1.0, 2.0]);
        let y = node(&[&x], identity, function).unwrap().remove(0);
        // The text is returned by a direct and by a re-entrant backward pass.
        let direct = sum_backward(&y).unwrap_err();
        let outer = node(&[&x], identity, move |_| {
            let x = leaf(&[1.0, 2.0]);
            tch::with_grad(|| sum_backward(&node(&[&x], identity, function)?[0]))?;
            Ok(vec![None])
        });
        let nested = sum_backward(&outer.unwrap()[0]).unwrap_err();
        for error in [direct, nested] {
            assert_eq!(matches!(error, Error::Panic(_)), panics, "{error:?}");
            assert!(error.to_string().contains(text), "{error} lacks {text:?}");
            assert!(error.to_string().contains("backward of autograd::Closures"), "{error}");
        }
    };
    check(|_| Err("no peer".into()), false, "no peer");
    check(|_| Err(Box::new(std::fmt::Error)), false, "formatting");
    check(|_| panic!("index {} is bad", 7), true, "panicked: index 7 is bad");
    check(
        |_| Ok(vec![Some(Tensor::zeros([5, 5], tch::kind::FLOAT_CPU).matmul(&leaf(&[1.0])))]),
        true,
        "matmul",
    );
    check(|_| Ok(vec![]), false, "returned 0 gradients for 1 inputs");
    check(|_| Ok(vec![None, None]), false, "returned 2 gradients for 1 inputs");
}

#[test]
fn libtorch_rejects_a_gradient_of_another_shape() {
    let x = leaf(&[1.0, 2.0]);
    let y = node(&[&x], identity, |_| Ok(vec![Some(Tensor::from_slice(&[1f32; 3]))]))
        .unwrap()
        .remove(0);
    let error = sum_backward(&y).unwrap_err();
    assert!(
        matches!(error, Error::Torch { .. }) && error.to_string().contains("invalid gradient"),
        "{error}"
    );
}

#[test]
fn apply_returns_the_error_of_forward() {
    let x = leaf(&[1.0]);
    let failed = node(&[&x], |_| Err("too long".into()), pass).unwrap_err();
    assert_eq!(failed.to_string(), "forward of autograd::Closures: too long");
    let undefined = node(&[&x, &Tensor::new()], identity, pass).unwrap_err();
    assert_eq!(undefined.to_string(), "input 1 is an undefined tensor");
    assert!(tch::no_grad(|| true) && (&x * 2.0).requires_grad(), "gradients are enabled again");
}

/// Pitfall: beyond a certain depth libtorch continues on another thread.
#[test]
fn reentrant_backward_to_depth_70() {
    fn nest(x: &Tensor, w: &Tensor, depth: usize) -> Result<Tensor, Error> {
        if depth == 0 {
            return Ok(x * w);
        }
        let (x2, w2) = (x.detach(), w.detach());
        let recompute = move |grads: &[Option<Tensor>]| -> Result<Grads, BoxError> {
            let (x, w) = (x2.detach().set_requires_grad(true), w2.detach().set_requires_grad(true));
            let y = tch::with_grad(|| nest(&x, &w, depth - 1))?;
            backward(&[&y], &[grads[0].as_ref()], false)?;
            Ok(vec![Some(x.grad()), Some(w.grad())])
        };
        Ok(node(&[x, w], |inputs| Ok(vec![inputs[0].f_mul(inputs[1])?]), recompute)?.remove(0))
    }
    let (x, w) = (leaf(&[2.0]), leaf(&[3.0]));
    let y = nest(&x, &w, 70).unwrap();
    sum_backward(&y).unwrap();
    assert_eq!((grad_of(&x), grad_of(&w)), (vec![3.0], vec![2.0]));
}

#[test]
fn a_graph_cannot_run_backward_from_inside_itself() {
    let x = leaf(&[1.0]);
    let slot: Arc<std::sync::Mutex<Option<Tensor>>> = Arc::default();
    let inside = Arc::clone(&slot);
    let y = node(&[&x], identity, move |_| {
        let y = inside.lock().unwrap().take().ok_or("no output")?;
        grad(&[&y], &[None], &[], true)?;
        backward(&[&y], &[None], true)?;
        Ok(vec![None])
    });
    let y = y.unwrap().remove(0);
    *slot.lock().unwrap() = Some(y.shallow_clone());
    let error = backward(&[&y], &[None], true).unwrap_err().to_string();
    assert!(error.contains("already running"), "{error}");
}

/// Pitfall: a view of what requires a gradient says so even where no graph is recorded.
#[test]
fn whether_a_graph_is_recorded() {
    let x = Tensor::ones([2], tch::kind::FLOAT_CPU).set_requires_grad(true);
    assert!(is_grad_enabled());
    tch::no_grad(|| {
        assert!(!is_grad_enabled());
        assert!(x.narrow(0, 0, 1).requires_grad() && !(&x * 2.0).requires_grad());
    });
    assert!(is_grad_enabled());
}
