//! Gain of partitioning images among ranks: the processor time of a rank's step with each `vision_placement`, on ranks that
//! are threads, and the bytes of features and hidden states that a rank sends.
//!
//!     cargo bench --workspace --bench vision

mod bounds;
mod setting;

use bounds::Bounds;
use neva_engine::comm::{Mesh, run_ranks};
use neva_schemas::{Finetune, ParallelSizes, VisionPlacement};
use setting::{microbatches, trainer};
use std::process::ExitCode;
use std::time::Duration;

const STEPS: u64 = 5;

/// Returns a recipe whose vision encoder costs more than its language model, as with short answers.
fn finetune(sizes: ParallelSizes, placement: VisionPlacement) -> Finetune {
    let mut finetune = setting::finetune(128, 4, 4);
    let model = finetune.model.as_llava_mut().expect("a LLaVA model");
    let vision = &mut model.vision_config;
    (vision.num_hidden_layers, vision.hidden_size, vision.intermediate_size) = (9, 256, 1024);
    (vision.num_attention_heads, vision.image_size) = (4, 112);
    let strategy = &mut finetune.trainer.strategy;
    strategy.tensor_model_parallel_size = sizes.tp;
    strategy.context_parallel_size = sizes.cp;
    strategy.vision_placement = placement;
    finetune
}

/// Measures the processor seconds of a step's passes on the slowest rank, the minimum of several steps, and the sent bytes.
fn measure(sizes: ParallelSizes, placement: VisionPlacement) -> (f64, u64) {
    let finetune = finetune(sizes, placement);
    let ranks = run_ranks(sizes.world() as usize, Duration::from_secs(120), |factory| {
        let mesh = Mesh::new(sizes, &factory).expect("threads meet");
        let microbatches = microbatches(&finetune, &mesh);
        let mut trainer = trainer(&finetune, mesh.clone());
        let sent = |mesh: &Mesh| -> u64 {
            let groups = ["tensor", "context", "tp_cp"];
            let traffic = mesh.traffic();
            let groups = groups.iter().filter_map(|group| traffic.get(group));
            groups.flat_map(|calls| calls.values()).map(|call| call.bytes).sum()
        };
        let mut least = f64::INFINITY;
        let before = sent(&mesh);
        for step in 0..STEPS {
            trainer.step(&microbatches, |peak| peak, step).expect("a step");
            least = least.min(trainer.stage_report().seconds.iter().map(|(_, seconds)| seconds).sum());
        }
        (least, (sent(&mesh) - before) / STEPS)
    });
    let slowest = ranks.iter().map(|(seconds, _)| *seconds).fold(0.0, f64::max);
    (slowest, ranks[0].1)
}

#[expect(clippy::print_stdout, reason = "a bench prints what it measured")]
fn main() -> ExitCode {
    tch::set_num_threads(1);
    let mut bounds = Bounds::default();
    println!("ranks     placement   CPU ms/step  of duplicated  bound    MB sent");
    let one = ParallelSizes::ONE;
    for sizes in [
        ParallelSizes { cp: 2, ..one },
        ParallelSizes { cp: 4, ..one },
        ParallelSizes { tp: 2, ..one },
        ParallelSizes { tp: 2, cp: 2, ..one },
    ] {
        let mut duplicated = None;
        for placement in [VisionPlacement::Duplicated, VisionPlacement::Shared, VisionPlacement::Cut] {
            if placement == VisionPlacement::Cut && sizes.tp == 1 {
                continue;
            }
            let (seconds, bytes) = measure(sizes, placement);
            let whole = *duplicated.get_or_insert(seconds);
            println!(
                "TP{} CP{}   {:<10}  {:>11.1}  {:>13.2}{}  {:>7.2}",
                sizes.tp,
                sizes.cp,
                format!("{placement:?}").to_lowercase(),
                1e3 * seconds,
                seconds / whole,
                // Partitioning must be faster.
                bounds.at_most(seconds / whole, if placement == VisionPlacement::Duplicated { 1.0 } else { 0.9 }),
                bytes as f64 / 1e6
            );
        }
    }
    bounds.finish()
}
