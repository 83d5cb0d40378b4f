//! Costs and savings of activation recomputation: processor time and peak bytes of tensors of a step on one rank, relative
//! to a step that saves all activations. Both have bounds.
//!
//!     cargo bench --workspace --bench recompute

mod bounds;
mod setting;

use bounds::Bounds;
use neva_engine::comm::Mesh;
use neva_schemas::{Finetune, MegatronStrategy, RecomputeGranularity, RecomputeMethod, RecomputeModule};
use neva_torch_ffi::allocator;
use setting::{microbatches, trainer};
use std::process::ExitCode;

const STEPS: u64 = 5;

/// Long rows, whose activations exceed the weights.
fn finetune(change: impl FnOnce(&mut MegatronStrategy)) -> Finetune {
    let mut finetune = setting::finetune(512, 2, 2);
    let text = &mut finetune.model.as_llava_mut().expect("a LLaVA model").text_config;
    (text.num_hidden_layers, text.hidden_size, text.intermediate_size) = (8, 192, 576);
    change(&mut finetune.trainer.strategy);
    finetune
}

/// Measures the processor seconds of a step's passes, the minimum of several steps, and the peak bytes beyond those held
/// between steps.
fn measure(finetune: &Finetune) -> (f64, u64) {
    let mesh = Mesh::single();
    let microbatches = microbatches(finetune, &mesh);
    let mut trainer = trainer(finetune, mesh);
    let (mut least, mut most) = (f64::INFINITY, 0);
    for step in 0..STEPS {
        let before = allocator::live();
        allocator::reset_peak();
        trainer.step(&microbatches, |peak| peak, step).expect("a step");
        least = least.min(trainer.stage_report().seconds.iter().map(|(_, seconds)| seconds).sum());
        most = allocator::peak().saturating_sub(before);
    }
    (least, most)
}

#[expect(clippy::print_stdout, reason = "a bench prints what it measured")]
fn main() -> ExitCode {
    allocator::install().expect("the first tensor is not made yet");
    tch::set_num_threads(1);
    let kept = finetune(|_| {});
    let full = finetune(|strategy| strategy.recompute_granularity = Some(RecomputeGranularity::Full));
    let half = finetune(|strategy| {
        strategy.recompute_granularity = Some(RecomputeGranularity::Full);
        (strategy.recompute_method, strategy.recompute_num_layers) = (Some(RecomputeMethod::Block), Some(4));
    });
    let modules = |module| {
        finetune(|strategy| {
            strategy.recompute_granularity = Some(RecomputeGranularity::Selective);
            strategy.recompute_modules = Some(vec![module]);
        })
    };
    let mut bounds = Bounds::default();
    // Warm-up.
    measure(&kept);
    let (seconds, bytes) = measure(&kept);
    println!("recomputed              CPU ms/step  of nothing  bound    MB held  of nothing  bound");
    // Bounds of time and memory, relative to those without recomputation.
    let ways = [
        ("nothing", kept, [1.15, 1.05]),
        ("every layer", full, [1.5, 0.35]),
        ("4 of 8 layers", half, [1.35, 0.75]),
        ("every MLP", modules(RecomputeModule::Mlp), [1.4, 0.85]),
        ("attention", modules(RecomputeModule::CoreAttn), [1.4, 1.05]),
    ];
    for (name, finetune, [most_time, most_held]) in ways {
        let (time, held) = measure(&finetune);
        println!(
            "{name:<22}  {:>11.1}  {:>10.2}{}  {:>7.1}  {:>10.2}{}",
            1e3 * time,
            time / seconds,
            bounds.at_most(time / seconds, most_time),
            held as f64 / 1e6,
            held as f64 / bytes as f64,
            bounds.at_most(held as f64 / bytes as f64, most_held)
        );
    }
    bounds.finish()
}
