//! Parity of layouts: losses, norms, gradients and weights match one rank.

use crate::distributed::ddp;
use crate::layout::{Layout, four_layers, mixed, pipeline};
use crate::setting::{ONE, Samples, adapters, close, close_tensors, gradients, lora, microbatches, on_mesh, train, trainer, within_limit};
use neva_schemas::{Finetune, ParallelSizes};
use std::collections::BTreeMap;
use tch::Tensor;

const STEPS: u64 = 10;

/// Returns loss, gradient norm and whole gradients of the step after `before` steps.
fn step(finetune: &Finetune, samples: &Samples, sizes: ParallelSizes, before: u64) -> (f64, f64, BTreeMap<String, Tensor>) {
    let ranks = on_mesh(sizes, |mesh| {
        let mut trainer = trainer(finetune, mesh.clone());
        for step in 0..before {
            trainer
                .step(&microbatches(finetune, samples, &mesh, step), |peak| peak, step)
                .unwrap();
        }
        let report = trainer.accumulate(&microbatches(finetune, samples, &mesh, before)).unwrap();
        (report.loss.unwrap(), report.grad_norm.unwrap(), gradients(&trainer))
    });
    let (loss, norm) = (ranks[0].0, ranks[0].1);
    let mut all = BTreeMap::new();
    for (other_loss, other_norm, gradients) in ranks {
        assert_eq!((other_loss, other_norm), (loss, norm), "ranks report different steps");
        all.extend(gradients);
    }
    (loss, norm, all)
}

/// Compares losses, norms and gradients of the first and the sixth step, and losses and weights of ten steps, with one
/// rank. `lay_out` converts the run on one rank to a layout.
#[track_caller]
pub(crate) fn check(name: &str, alone: &Finetune, layouts: &[Layout], lay_out: impl Fn(Layout, &Finetune) -> Finetune) {
    let mut alone = alone.clone();
    ddp(&mut alone, false, false);
    let samples = Samples::edited(&alone, mixed);
    let steps = |finetune: &Finetune, sizes| [0, 5].map(|before| step(finetune, &samples, sizes, before));
    let expected_steps = steps(&alone, ONE);
    let expected = train(&alone, &samples, ONE, STEPS);
    assert!(expected.losses.iter().all(|loss| loss.is_finite() && *loss > 0.0), "{name}");
    for layout in layouts {
        let (finetune, sizes) = (lay_out(*layout, &alone), layout.sizes);
        let name = format!("{name}, {layout:?}");
        for ((loss, norm, gradients), (expected_loss, expected_norm, expected)) in steps(&finetune, sizes).iter().zip(&expected_steps) {
            let expected_numbers = [*expected_loss, *expected_norm];
            close(
                &format!("{name}: loss and norm of a step"),
                &[*loss, *norm],
                &expected_numbers,
                1e-5,
            );
            close_tensors(&format!("{name}: gradients"), gradients, expected, 1e-4);
        }
        let got = train(&finetune, &samples, sizes, STEPS);
        close(&format!("{name}: loss"), &got.losses, &expected.losses, 1e-5);
        close_tensors(&name, &got.weights, &expected.weights, 1e-4);
    }
}

/// Returns layouts with stages, model chunks, and more tensor-parallel ranks than key heads.
fn layouts() -> Vec<Layout> {
    let tp4 = pipeline(1).over(4, 1);
    vec![
        pipeline(2),
        pipeline(4),
        pipeline(2).ends(Some(1), None),
        pipeline(2).chunks(2),
        tp4,
        tp4.sequence_parallel(),
        pipeline(2).over(4, 1),
        pipeline(2).chunks(2).over(2, 1).sequence_parallel(),
        pipeline(2).chunks(2).over(1, 2).distributed(),
    ]
}

#[track_caller]
fn check_all(name: &str, change: impl FnOnce(&mut Finetune)) {
    let mut alone = four_layers();
    change(&mut alone);
    check(name, &alone, &layouts(), Layout::of);
}

#[test]
fn whole_model() {
    within_limit(|| check_all("full", |_| {}));
}

#[test]
fn tied_head() {
    within_limit(|| {
        check_all("tied head", |finetune| {
            finetune.model.as_llava_mut().unwrap().text_config.tie_word_embeddings = true;
        });
    });
}

#[test]
fn adapters_of_the_recipe() {
    within_limit(|| check_all("LoRA", lora));
}

#[test]
fn adapters_on_every_fused_module() {
    within_limit(|| {
        check_all("fused LoRA", |finetune| {
            adapters(finetune, &["linear_qkv", "linear_proj", "linear_fc1", "linear_fc2"]);
        });
    });
}

#[test]
fn adapters_on_every_single_linear() {
    within_limit(|| {
        let language = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];
        let vision = ["out_proj", "fc1", "fc2", "linear_1", "linear_2"];
        check_all("single LoRA", |finetune| {
            adapters(finetune, &[language.as_slice(), &vision].concat())
        });
    });
}
