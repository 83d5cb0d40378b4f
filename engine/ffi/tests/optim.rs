//! Compares fused AdamW with the algorithm of the paper, and tests the foreach kernels.
#![expect(clippy::unwrap_used, reason = "test helpers may unwrap")]

use neva_torch_ffi::{AdamW, AdamWSlot, Error, LossScale, foreach, fused_adamw_};
use tch::{Device, Kind, Tensor};

const OPTIONS: AdamW = AdamW {
    lr: 0.1,
    beta1: 0.9,
    beta2: 0.95,
    eps: 1e-8,
    weight_decay: 0.1,
    maximize: false,
};

fn values(tensor: &Tensor) -> Vec<f64> {
    Vec::try_from(tensor.to_kind(Kind::Double)).unwrap()
}

fn close(found: &Tensor, expect: &[f64]) {
    let found = values(found);
    let near = found.iter().zip(expect).all(|(a, b)| (a - b).abs() <= 1e-5 * b.abs().max(1e-3));
    assert!(near && found.len() == expect.len(), "{found:?} is not {expect:?}");
}

/// A parameter and its state.
struct Slot([Tensor; 5]);

impl Slot {
    fn new(param: &[f32]) -> Self {
        let param = Tensor::from_slice(param).set_requires_grad(true);
        let zeros = || Tensor::zeros(param.size(), tch::kind::FLOAT_CPU);
        let state = [zeros(), zeros(), zeros(), Tensor::zeros([], tch::kind::FLOAT_CPU)];
        let [grad, average, square, step] = state;
        Self([param, grad, average, square, step])
    }
    fn borrow(&self) -> AdamWSlot<'_> {
        let [param, grad, exp_avg, exp_avg_sq, step] = &self.0;
        AdamWSlot {
            param,
            grad,
            exp_avg,
            exp_avg_sq,
            step,
        }
    }
    fn set_grad(&mut self, grad: &[f32]) {
        self.0[1] = Tensor::from_slice(grad);
    }
}

/// Algorithm 2 of the paper, one number at a time.
fn reference(options: &AdamW, params: &mut [f64], state: &mut [(f64, f64)], grads: &[f64], step: i32) {
    let AdamW {
        lr,
        beta1,
        beta2,
        eps,
        weight_decay,
        maximize,
    } = *options;
    for ((param, (average, square)), grad) in params.iter_mut().zip(state).zip(grads) {
        let grad = if maximize { -grad } else { *grad };
        *param *= 1.0 - lr * weight_decay;
        *average = beta1 * *average + (1.0 - beta1) * grad;
        *square = beta2 * *square + (1.0 - beta2) * grad * grad;
        let (average, square) = (*average / (1.0 - beta1.powi(step)), *square / (1.0 - beta2.powi(step)));
        *param -= lr * average / (square.sqrt() + eps);
    }
}

#[test]
fn adamw_equals_the_algorithm_of_the_paper() {
    for options in [
        OPTIONS,
        AdamW {
            maximize: true,
            weight_decay: 0.0,
            ..OPTIONS
        },
    ] {
        let start = [[0.5f32, -2.0, 3.0], [1.0, 0.0, -1.0]];
        let mut slots = start.map(|param| Slot::new(&param));
        let mut expect = start.map(|param| (param.map(f64::from), [(0.0, 0.0); 3]));
        for step in 1..=5 {
            for (index, (slot, (params, state))) in slots.iter_mut().zip(&mut expect).enumerate() {
                let grad = [0.3, -0.1 * step as f32, index as f32];
                slot.set_grad(&grad);
                reference(&options, params, state, &grad.map(f64::from), step);
            }
            let slots: Vec<_> = slots.iter().map(Slot::borrow).collect();
            fused_adamw_(&options, &slots, None).unwrap();
        }
        for (slot, (params, _)) in slots.iter().zip(&expect) {
            close(&slot.0[0].detach(), params);
            assert_eq!(f64::try_from(&slot.0[4]).unwrap(), 5.0);
        }
    }
}

#[test]
fn loss_scale_divides_gradients_or_skips_the_step() {
    let scalar = |value: f32| Tensor::from_slice(&[value]).squeeze();
    let step = |grad: f32, loss: Option<(f32, f32)>| {
        let mut slot = Slot::new(&[1.0]);
        slot.set_grad(&[grad]);
        let loss = loss.map(|(scale, found_inf)| (scalar(scale), scalar(found_inf)));
        let loss = loss.as_ref().map(|(scale, found_inf)| LossScale { scale, found_inf });
        fused_adamw_(&OPTIONS, &[slot.borrow()], loss).unwrap();
        (values(&slot.0[0].detach())[0], f64::try_from(&slot.0[4]).unwrap())
    };
    assert_eq!(step(8.0, Some((16.0, 0.0))), step(0.5, None));
    assert_eq!(step(f32::INFINITY, Some((16.0, 1.0))), (1.0, 0.0));
}

#[test]
fn adamw_reports_invalid_tensors() {
    let check = |which: usize, tensor: Tensor, expect: &str| {
        let (good, mut bad) = (Slot::new(&[1.0, 2.0]), Slot::new(&[1.0, 2.0]));
        bad.0[which] = tensor;
        let error = fused_adamw_(&OPTIONS, &[good.borrow(), bad.borrow()], None).unwrap_err();
        assert!(matches!(error, Error::Argument(_)), "{error:?}");
        assert_eq!(error.to_string(), format!("AdamW, parameter 1: {expect}"));
        assert_eq!(values(&good.0[0].detach()), [1.0, 2.0], "nothing was changed");
    };
    check(1, Tensor::new(), "grad is undefined");
    check(1, Tensor::from_slice(&[1f32]), "grad has shape [1], but the parameter has [2]");
    check(
        2,
        Tensor::from_slice(&[1f64, 2.0]),
        "exp_avg is (Double, Cpu), but the first parameter is (Float, Cpu)",
    );
    check(
        3,
        Tensor::zeros([1], tch::kind::FLOAT_CPU).expand([2], false),
        "exp_avg_sq is not contiguous",
    );
    check(4, Tensor::from(0i64), "step must be one Kind::Float element");
    fused_adamw_(&OPTIONS, &[], None).unwrap();
}

#[test]
fn foreach_kernels() {
    let pair = || {
        [
            Tensor::from_slice(&[3f32, -4.0]).set_requires_grad(true),
            Tensor::from_slice(&[1f32]),
        ]
    };
    let check = |kernel: fn(&[&Tensor], &[&Tensor]) -> Result<(), Error>, expect: [&[f64]; 2]| {
        let (tensors, others) = (pair(), [Tensor::from_slice(&[10f64, 20.0]), Tensor::from_slice(&[30f64])]);
        kernel(&tensors.each_ref(), &others.each_ref()).unwrap();
        assert_eq!(
            tensors.each_ref().map(|tensor| values(&tensor.detach())),
            expect.map(<[f64]>::to_vec)
        );
        kernel(&[], &[]).unwrap();
    };
    check(|x, _| foreach::mul_(x, 0.5), [&[1.5, -2.0], &[0.5]]);
    check(|x, _| foreach::mul_tensor_(x, &Tensor::from(2f32)), [&[6.0, -8.0], &[2.0]]);
    check(|x, _| foreach::zero_(x), [&[0.0, 0.0], &[0.0]]);
    check(foreach::copy_, [&[10.0, 20.0], &[30.0]]);
    check(
        |x, y| {
            let floats: Vec<Tensor> = y.iter().map(|tensor| tensor.to_kind(Kind::Float)).collect();
            foreach::add_(x, &floats.iter().collect::<Vec<_>>(), 0.5)
        },
        [&[8.0, 6.0], &[16.0]],
    );
}

#[test]
fn foreach_norms() {
    let check = |kind: Kind, order: f64, result: Option<Kind>, expect: (f64, Kind)| {
        let tensors = [Tensor::from_slice(&[3f32, -4.0]), Tensor::zeros([0], tch::kind::FLOAT_CPU)].map(|x| x.to_kind(kind));
        let norms = foreach::norm(&tensors.each_ref(), order, result).unwrap();
        let found: Vec<_> = norms.iter().map(|norm| (norm.double_value(&[]), norm.kind())).collect();
        assert_eq!(found[..1], [expect]);
        assert_eq!(norms.len(), 2);
    };
    check(Kind::Float, 2.0, None, (5.0, Kind::Float));
    check(Kind::BFloat16, 2.0, Some(Kind::Float), (5.0, Kind::Float));
    check(Kind::BFloat16, 1.0, None, (7.0, Kind::BFloat16));
    assert!(foreach::norm(&[], 2.0, None).unwrap().is_empty());
    let x = Tensor::zeros([1], (Kind::Float, Device::Cpu));
    assert!(
        foreach::norm(&[&x], 2.0, Some(Kind::Int64))
            .unwrap_err()
            .to_string()
            .contains("not Int64")
    );
    assert!(
        foreach::add_(&[&x], &[], 1.0)
            .unwrap_err()
            .to_string()
            .contains("1 tensors, but 0 others")
    );
    assert!(
        foreach::zero_(&[&x, &Tensor::new()])
            .unwrap_err()
            .to_string()
            .contains("tensor 1 is an undefined")
    );
}
