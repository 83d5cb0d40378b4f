//! `backward` and `grad`: initial gradients, accumulation and invalid arguments.
#![expect(clippy::unwrap_used, reason = "test helpers may unwrap")]

use neva_torch_ffi::{Error, backward, grad, take_grad};
use tch::{Kind, Tensor};

fn leaf(values: &[f32]) -> Tensor {
    Tensor::from_slice(values).set_requires_grad(true)
}

fn values(tensor: &Tensor) -> Vec<f32> {
    Vec::try_from(tensor).unwrap()
}

#[test]
fn accumulates_from_several_outputs() {
    let x = leaf(&[1.0, 2.0]);
    let (square, double) = (&x * &x, &x * 2.0);
    let seed = Tensor::from_slice(&[1f32, 10.0]);
    backward(&[&square, &double.sum(Kind::Float)], &[Some(&seed), None], true).unwrap();
    assert_eq!(values(&x.grad()), [4.0, 42.0]);
    backward(&[&square], &[Some(&seed)], false).unwrap();
    assert_eq!(values(&x.grad()), [6.0, 82.0]);
    // libtorch's own nodes also reject a second backward pass.
    let error = backward(&[&square], &[Some(&seed)], false).unwrap_err();
    assert!(matches!(&error, Error::Torch { op: "backward", .. }), "{error:?}");
    assert!(!error.to_string().contains("frame #"), "without a C++ backtrace: {error}");
}

#[test]
fn grad_returns_and_does_not_accumulate() {
    let (x, w, unused) = (leaf(&[3.0]), leaf(&[5.0]), leaf(&[7.0]));
    let y = &x * &w;
    let found = grad(&[&y], &[None], &[&x, &unused, &y], true).unwrap();
    let found: Vec<_> = found.iter().map(|grad| grad.as_ref().map(values)).collect();
    assert_eq!(found, [Some(vec![5.0]), None, Some(vec![1.0])]);
    assert!(!x.grad().defined() && !w.grad().defined());
    assert!(grad(&[&y], &[None], &[], false).unwrap().is_empty());
}

#[test]
fn arguments_that_cannot_work() {
    let x = leaf(&[1.0, 2.0]);
    let y = &x * 2.0;
    let constant = Tensor::from_slice(&[1f32]);
    let check = |outputs: &[&Tensor], grads: &[Option<&Tensor>], inputs: &[&Tensor], expect: &str| {
        let error = grad(outputs, grads, inputs, true).unwrap_err();
        assert!(matches!(error, Error::Argument(_)) && error.to_string().contains(expect), "{error}");
    };
    check(&[&y], &[], &[&x], "1 outputs, but 0 gradients");
    check(&[&y], &[None], &[&x], "output 0 has shape [2] and needs a gradient");
    check(&[&y], &[Some(&constant)], &[&x], "has shape [2], but its gradient has [1]");
    check(&[&y], &[Some(&Tensor::new())], &[&x], "undefined gradient");
    check(&[&Tensor::new()], &[None], &[&x], "output 0 is an undefined tensor");
    check(&[&constant], &[None], &[&x], "output 0 requires no gradient");
    check(&[&y.sum(Kind::Float)], &[None], &[&constant], "input 0 requires no gradient");
    backward(&[], &[], false).unwrap();
}

#[test]
fn a_gradient_is_taken_once() {
    let x = leaf(&[1.0, 2.0]);
    assert!(take_grad(&x).unwrap().is_none());
    for factor in [3.0, 5.0] {
        backward(&[&(&x * factor).sum(Kind::Float)], &[None], false).unwrap();
        // All handles of a leaf have the same gradient.
        let grad = take_grad(&x.shallow_clone()).unwrap().unwrap();
        assert_eq!(values(&grad), [factor as f32; 2], "the earlier gradient is gone");
        assert!(take_grad(&x).unwrap().is_none());
    }
}
