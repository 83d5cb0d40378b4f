//! Updates of AdamW, SGD and Lion, compared to their formulas in double precision.

use crate::setting::{Samples, difference, microbatches, precision, run, small, trainer, within_limit};
use neva_engine::comm::Mesh;
use neva_engine::optim::OptimizerShard;
use neva_engine::trainer::Trainer;
use neva_schemas::{AdamW, Finetune, Lion, LrScheduler, Optim, Precision, Sgd, exit_class};
use std::collections::BTreeMap;
use tch::{Kind, Tensor};

const LR: f64 = 1e-2;

fn adamw() -> Optim {
    Optim::AdamW(AdamW {
        lr: LR,
        weight_decay: 0.3,
        lr_scheduler: LrScheduler::constant(),
        ..AdamW::default()
    })
}

fn sgd(momentum: f64, nesterov: bool) -> Optim {
    Optim::Sgd(Sgd {
        lr: LR,
        weight_decay: 0.3,
        momentum,
        nesterov,
        lr_scheduler: LrScheduler::constant(),
        ..Sgd::default()
    })
}

fn lion() -> Optim {
    Optim::Lion(Lion {
        lr: LR,
        weight_decay: 0.3,
        lr_scheduler: LrScheduler::constant(),
        ..Lion::default()
    })
}

/// A weight and its moments in double precision.
struct Exact {
    weight: Tensor,
    moments: [Tensor; 2],
    decay: f64,
}

impl Exact {
    fn new(weight: &Tensor, decays: bool) -> Self {
        let weight = weight.to_kind(Kind::Double);
        let moments = [weight.zeros_like(), weight.zeros_like()];
        let decay = if decays { 0.3 } else { 0.0 };
        Self { weight, moments, decay }
    }

    /// Runs step `t`, counted from 1, with gradient `g`.
    fn step(&mut self, optim: &Optim, g: &Tensor, t: i32) {
        let [m, v] = &mut self.moments;
        let update = match optim {
            Optim::AdamW(AdamW { betas: (b1, b2), eps, .. }) => {
                *m = &*m * *b1 + g * (1.0 - b1);
                *v = &*v * *b2 + g * g * (1.0 - b2);
                (&*m / (1.0 - b1.powi(t))) / ((&*v / (1.0 - b2.powi(t))).sqrt() + *eps)
            }
            Optim::Sgd(Sgd { momentum, nesterov, .. }) => {
                *m = &*m * *momentum + g;
                if *nesterov { g + &*m * *momentum } else { m.copy() }
            }
            Optim::Lion(Lion { betas: (b1, b2), .. }) => {
                let update = (&*m * *b1 + g * (1.0 - b1)).sign();
                *m = &*m * *b2 + g * (1.0 - b2);
                update
            }
        };
        self.weight = &self.weight * (1.0 - LR * self.decay) - update * LR;
    }
}

/// Returns the parameter of a shard that covers all of it.
fn whole(trainer: &Trainer, shard: &OptimizerShard<'_>) -> Tensor {
    assert_eq!(shard.range, 0..shard.spec.numel());
    trainer.parameters().get(&shard.spec.name).unwrap().tensor.detach()
}

fn check(optim: Optim, kind: Precision, moments: &[&str]) {
    let mut finetune: Finetune = small();
    finetune.optim = optim.clone();
    precision(&mut finetune, kind);
    let samples = Samples::of(&finetune);
    let mut trainer = trainer(&finetune, Mesh::single());
    let masters = |trainer: &Trainer| {
        trainer
            .optimizer()
            .shards()
            .map(|shard| {
                (
                    shard.spec.name.clone(),
                    shard.master.values().unwrap().view_as(&whole(trainer, &shard)).copy(),
                )
            })
            .collect()
    };
    let start: BTreeMap<String, Tensor> = masters(&trainer);
    let mut exact: BTreeMap<_, _> = start
        .iter()
        .map(|(name, weight)| (name.clone(), Exact::new(weight, weight.dim() > 1 && !name.ends_with(".bias"))))
        .collect();
    for step in 0..3 {
        let batches = microbatches(&finetune, &samples, &Mesh::single(), step);
        trainer.step(&batches, |peak| peak, step).unwrap();
        for (parameter, gradient) in trainer.gradients() {
            let gradient = gradient.unwrap().to_kind(Kind::Double);
            exact
                .get_mut(&parameter.spec.name)
                .unwrap()
                .step(&optim, &gradient, step as i32 + 1);
        }
    }
    for (shard, parameter) in trainer.optimizer().shards().zip(trainer.parameters().trainable()) {
        let name = &shard.spec.name;
        let (exact, master) = (&exact[name], shard.master.values().unwrap().view_as(&parameter.tensor));
        let what = format!("{optim:?}, {kind:?}: {name}");
        assert!(!master.equal(&start[name]), "{what} does not change");
        let off = difference(&master, &exact.weight);
        assert!(off <= 2e-6, "{what}: weight is off by {off:e}");
        assert_eq!(shard.moments.iter().map(|(name, _)| *name).collect::<Vec<_>>(), moments, "{what}");
        for ((_, got), expected) in shard.moments.iter().zip(&exact.moments) {
            let off = difference(&got.view_as(expected), expected);
            assert!(off <= 2e-6, "{what}: moment is off by {off:e}");
        }
        assert_eq!(shard.step.double_value(&[0]), 3.0);
        assert!(
            parameter.tensor.detach().equal(&master.to_kind(parameter.tensor.kind())),
            "{what}: the weight lags"
        );
    }
}

#[test]
fn updates_match_the_papers() {
    within_limit(|| {
        for kind in [Precision::Fp32, Precision::Bf16Mixed] {
            check(adamw(), kind, &["exp_avg", "exp_avg_sq"]);
            check(sgd(0.0, false), kind, &[]);
            check(sgd(0.9, false), kind, &["momentum_buffer"]);
            check(sgd(0.9, true), kind, &["momentum_buffer"]);
            check(lion(), kind, &["exp_avg"]);
        }
    });
}

#[test]
fn moments_of_another_optimizer_are_refused() {
    within_limit(|| {
        let folder = tempfile::tempdir().unwrap();
        let named = [("optim.AdamW", adamw()), ("optim.SGD", sgd(0.0, false)), ("optim.Lion", lion())];
        for (theirs, optim) in &named {
            let mut finetune = small();
            finetune.optim = optim.clone();
            finetune.trainer.max_steps = Some(1);
            let checkpoint = run(&finetune, &folder.path().join(theirs)).unwrap().checkpoint.unwrap();
            for (ours, optim) in named.iter().filter(|(ours, _)| ours != theirs) {
                finetune.optim = optim.clone();
                finetune.trainer.max_steps = Some(2);
                finetune.resume.resume_from_path = Some(checkpoint.clone());
                let failure = run(&finetune, &folder.path().join(format!("{theirs} {ours}"))).unwrap_err();
                let text = failure.to_string();
                assert_eq!(failure.class, exit_class::INPUT, "{text}");
                let expected = format!("holds the moments of {theirs}, this run trains with {ours}");
                assert!(
                    text.contains(&expected) && text.contains("finetune.resume.restore_config.path=DIR"),
                    "{text}"
                );
            }
        }
    });
}
