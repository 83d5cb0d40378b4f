//! What recomputation costs and saves: the processor time of a step on one rank, and the most bytes of tensors that it
//! holds, beside those of a step that keeps everything.
//!
//!     cargo bench -p neva-engine --bench recompute

mod setting;

use neva_engine::comm::Mesh;
use neva_schemas::{Finetune, MegatronStrategy, RecomputeGranularity, RecomputeMethod, RecomputeModule};
use neva_torch_ffi::allocator;
use setting::{microbatches, trainer};

const STEPS: u64 = 5;

/// Long rows, whose activations exceed the weights.
fn finetune(change: impl FnOnce(&mut MegatronStrategy)) -> Finetune {
    let mut finetune = setting::finetune(512, 2, 2);
    let text = &mut finetune.model.llava_mut().text_config;
    (text.num_hidden_layers, text.hidden_size, text.intermediate_size) = (8, 192, 576);
    change(&mut finetune.trainer.strategy);
    finetune
}

/// Processor seconds of a step's passes, the least of several steps; and the bytes that it holds at most beyond those
/// that it holds between steps.
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
fn main() {
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
    // Once to warm up.
    measure(&kept);
    let (seconds, bytes) = measure(&kept);
    println!("computed again          CPU ms/step  of nothing  MB held  of nothing");
    let ways = [
        ("nothing", kept),
        ("every layer", full),
        ("4 of 8 layers", half),
        ("every MLP", modules(RecomputeModule::Mlp)),
        ("attention", modules(RecomputeModule::CoreAttn)),
    ];
    for (name, finetune) in ways {
        let (time, held) = measure(&finetune);
        println!(
            "{name:<22}  {:>11.1}  {:>10.2}  {:>7.1}  {:>10.2}",
            1e3 * time,
            time / seconds,
            held as f64 / 1e6,
            held as f64 / bytes as f64
        );
    }
}
