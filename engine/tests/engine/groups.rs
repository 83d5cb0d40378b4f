//! Parameter groups with their own learning rate or weight decay.

use crate::setting::{Samples, difference, lora, microbatches, small, trainer, weights, within_limit};
use neva_engine::comm::Mesh;
use neva_schemas::{Finetune, ParamGroup};
use std::collections::BTreeSet;
use tch::Kind;

fn group(params: &[&str], lr: Option<f64>, weight_decay: Option<f64>) -> ParamGroup {
    ParamGroup {
        params: params.iter().map(ToString::to_string).collect(),
        lr,
        weight_decay,
    }
}

/// Runs one step at half the peak rate and compares each weight with AdamW's formula. `expect` returns learning rate and
/// decay of a parameter from its name and number of dimensions.
fn check(change: impl FnOnce(&mut Finetune), expect: impl Fn(&str, usize) -> (f64, f64)) {
    let mut finetune = small();
    *finetune.optim.lr_mut() = 2e-3;
    *finetune.optim.weight_decay_mut() = 0.5;
    change(&mut finetune);
    let eps = finetune.optim.adamw().unwrap().eps;
    let samples = Samples::of(&finetune);
    let mut trainer = trainer(&finetune, Mesh::single());
    let before = weights(&trainer);
    trainer
        .step(&microbatches(&finetune, &samples, &Mesh::single(), 0), |peak| peak / 2.0, 0)
        .unwrap();
    let after = weights(&trainer);
    let mut kinds = BTreeSet::new();
    for (parameter, gradient) in trainer.gradients() {
        let name = &parameter.spec.name;
        let (peak, decay) = expect(name, before[name].dim());
        kinds.insert(format!("{peak} {decay}"));
        let (lr, g, w) = (
            peak / 2.0,
            gradient.unwrap().to_kind(Kind::Double),
            before[name].to_kind(Kind::Double),
        );
        // After bias correction, both moments are those of this gradient.
        let expected = &w * (1.0 - lr * decay) - &g / (g.abs() + eps) * lr;
        let off = difference(&after[name], &expected);
        assert!(off <= 2e-6, "{name} is off by {off:e}");
        if peak == 0.0 {
            assert!(after[name].equal(&before[name]), "{name} changes");
        }
    }
    assert!(kinds.len() > 1, "no group makes a difference");
}

fn is_projector(name: &str) -> bool {
    name.contains("multi_modal_projector")
}

fn decay(name: &str, dims: usize) -> f64 {
    if dims > 1 && !name.ends_with(".bias") { 0.5 } else { 0.0 }
}

#[test]
fn groups_set_learning_rate_and_decay() {
    within_limit(|| {
        check(|_| {}, |name, dims| (2e-3, decay(name, dims)));
        // An explicit decay also applies to biases and norms.
        check(
            |finetune| *finetune.optim.param_groups_mut() = vec![group(&["*vision_tower*"], Some(5e-4), Some(0.25))],
            |name, dims| {
                if name.contains("vision_tower") {
                    (5e-4, 0.25)
                } else {
                    (2e-3, decay(name, dims))
                }
            },
        );
        // Settings missing in a group are the optimizer's.
        check(
            |finetune| {
                *finetune.optim.param_groups_mut() = vec![
                    group(&["lm_head.weight", "*.layers.0.*"], None, Some(0.0)),
                    group(&["*norm*"], Some(1e-2), None),
                ]
            },
            |name, dims| {
                if name == "lm_head.weight" || name.contains(".layers.0.") {
                    (2e-3, 0.0)
                } else if name.contains("norm") {
                    (1e-2, decay(name, dims))
                } else {
                    (2e-3, decay(name, dims))
                }
            },
        );
        // The first matching group applies: a learning rate of 0 freezes the rest of the model.
        check(
            |finetune| {
                *finetune.optim.param_groups_mut() = vec![
                    group(&["*multi_modal_projector*"], Some(1e-2), None),
                    group(&["*"], Some(0.0), None),
                ]
            },
            |name, dims| (if is_projector(name) { 1e-2 } else { 0.0 }, decay(name, dims)),
        );
    });
}

#[test]
fn mm_projector_lr_sets_the_projectors_rate() {
    within_limit(|| {
        let adamw = |finetune: &mut Finetune, lr| match &mut finetune.optim {
            neva_schemas::Optim::AdamW(adamw) => adamw.mm_projector_lr = Some(lr),
            other => unreachable!("{other:?}"),
        };
        let projector = |name: &str, dims| (if is_projector(name) { 1e-4 } else { 2e-3 }, decay(name, dims));
        check(|finetune| adamw(finetune, 1e-4), projector);
        // A group that matches the projector takes precedence.
        check(
            |finetune| {
                adamw(finetune, 1e-4);
                *finetune.optim.param_groups_mut() = vec![group(&["*projector.linear_1.*"], Some(1e-2), None)];
            },
            |name, dims| {
                if name.contains("projector.linear_1.") {
                    (1e-2, decay(name, dims))
                } else {
                    projector(name, dims)
                }
            },
        );
    });
}

#[test]
fn groups_apply_to_adapters() {
    within_limit(|| {
        check(
            |finetune| {
                lora(finetune);
                // LoRA+: B learns faster than A.
                *finetune.optim.param_groups_mut() = vec![group(&["*lora_B*"], Some(3.2e-2), None)];
            },
            |name, dims| (if name.contains("lora_B") { 3.2e-2 } else { 2e-3 }, decay(name, dims)),
        );
    });
}
