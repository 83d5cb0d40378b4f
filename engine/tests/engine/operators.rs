//! Work of a step as numbers that are the same on every machine: operators of libtorch, and operations of the model.

use crate::setting::*;
use neva_engine::comm::Mesh;
use neva_schemas::Finetune;
use neva_torch_ffi::OperatorCount;

/// Returns the operators of the second and the third step.
fn operators(finetune: &Finetune) -> [u64; 2] {
    let (samples, mesh) = (Samples::of(finetune), Mesh::single());
    let mut trainer = trainer(finetune, mesh.clone());
    let mut step = |step| {
        let batches = microbatches(finetune, &samples, &mesh, step);
        let count = OperatorCount::start().unwrap();
        trainer.step(&batches, |peak| peak, step).unwrap();
        count.finish().unwrap()
    };
    step(0);
    [1, 2].map(step)
}

/// Most operators of a step of the whole model and of adapters. A change that adds some must be worth it: then raise the
/// number. One that removes some lowers it.
const MOST: [u64; 2] = [9424, 12884];

#[test]
fn a_step_has_no_more_operators_than_before() {
    within_limit(|| {
        let mut full = tiny();
        // Only some steps would clip.
        *full.optim.clip_grad_mut() = 0.0;
        let mut adapted = full.clone();
        lora(&mut adapted);
        let counted = [full, adapted].map(|finetune| operators(&finetune));
        for (steps, most) in counted.iter().zip(MOST) {
            assert_eq!(steps[0], steps[1], "steps alike have the same operators: {counted:?}");
            assert!(steps[0] <= most, "{counted:?}, at most {MOST:?}");
        }
    });
}

/// Attention is in the formula alone, and an implementation may leave out products that nothing reads.
#[test]
fn the_formula_agrees_with_the_products_that_ran() {
    within_limit(|| {
        let mut adapted = tiny();
        lora(&mut adapted);
        let mut frozen = tiny();
        frozen.model.as_llava_mut().unwrap().freeze_language_model = true;
        for (name, finetune) in [("full", tiny()), ("lora", adapted), ("frozen decoder", frozen)] {
            let (samples, mesh) = (Samples::of(&finetune), Mesh::single());
            let mut trainer = trainer(&finetune, mesh.clone());
            trainer.step(&microbatches(&finetune, &samples, &mesh, 0), |peak| peak, 0).unwrap();
            let report = trainer.effects().unwrap();
            let products: f64 = report.gemms.iter().map(|gemm| gemm.flops).sum();
            let share = products / report.model_flops;
            assert!((0.6..1.0).contains(&share), "{name}: {products} of {}", report.model_flops);
        }
    });
}
