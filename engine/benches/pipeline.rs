//! The pipeline bubble. Measures the processor time of each action on ranks that are threads, and replays the schedule as
//! if each rank had its own device. Prints the bubble beside `(p - 1) / (m v)`, the fraction of idle time for equal stages,
//! and their ratio, which has a bound.
//!
//!     cargo bench --workspace --bench pipeline

mod bounds;
mod setting;

use bounds::Bounds;
use neva_engine::comm::{Mesh, run_ranks};
use neva_layout::{Action, Timeline};
use neva_schemas::{Finetune, ParallelSizes};
use setting::{microbatches, trainer};
use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

const MICROBATCHES: u64 = 8;
const STEPS: u64 = 5;
/// Largest ratio of the measured to the theoretical bubble: stages are not exactly equal.
const BOUND: f64 = 1.5;

fn finetune(stages: u32, chunks: u32) -> Finetune {
    let mut finetune = setting::finetune(256, 2 * MICROBATCHES, 2);
    let model = finetune.model.as_llava_mut().expect("a LLaVA model");
    // Layers of the language model with almost nothing at its ends, as the theory assumes.
    let text = &mut model.text_config;
    (text.num_hidden_layers, text.hidden_size, text.intermediate_size, text.vocab_size) = (16, 192, 576, 64);
    (model.freeze_vision_model, model.image_token_index) = (true, 63);
    let vision = &mut model.vision_config;
    (
        vision.num_hidden_layers,
        vision.hidden_size,
        vision.intermediate_size,
        vision.image_size,
    ) = (1, 32, 32, 28);
    finetune.trainer.strategy.pipeline_model_parallel_size = stages;
    finetune.trainer.strategy.virtual_pipeline_model_parallel_size = (chunks > 1).then_some(chunks);
    finetune
}

/// Measures the seconds of each action by stage: the minimum of several steps.
fn measure(stages: u32, chunks: u32) -> Vec<Vec<(Action, f64)>> {
    let finetune = finetune(stages, chunks);
    let sizes = ParallelSizes {
        pp: stages,
        ..ParallelSizes::ONE
    };
    run_ranks(stages as usize, Duration::from_secs(120), |factory| {
        let mesh = Mesh::new(sizes, &factory).expect("threads meet");
        let microbatches = microbatches(&finetune, &mesh);
        let mut trainer = trainer(&finetune, mesh);
        let mut least: Vec<(Action, f64)> = Vec::new();
        for step in 0..STEPS {
            trainer.step(&microbatches, |peak| peak, step).expect("a step");
            let seconds = &trainer.stage_report().seconds;
            if least.is_empty() {
                least.clone_from(seconds);
            }
            for ((_, least), (_, seconds)) in least.iter_mut().zip(seconds) {
                *least = least.min(*seconds);
            }
        }
        least
    })
}

#[expect(clippy::print_stdout, reason = "a bench prints what it measured")]
fn main() -> ExitCode {
    tch::set_num_threads(1);
    let mut bounds = Bounds::default();
    println!("stages  chunks  microbatches  bubble  theory  ratio  bound");
    for (stages, chunks) in [(2, 1), (4, 1), (2, 2), (4, 2), (4, 4)] {
        let measured = measure(stages, chunks);
        let schedules: Vec<Vec<Action>> = measured
            .iter()
            .map(|stage| stage.iter().map(|(action, _)| *action).collect())
            .collect();
        let costs: Vec<BTreeMap<Action, f64>> = measured.iter().map(|stage| stage.iter().copied().collect()).collect();
        let timeline = Timeline::replay(&schedules, chunks as usize, |stage, action| costs[stage][&action]).expect("schedules end");
        let theory = f64::from(stages - 1) / (MICROBATCHES as f64 * f64::from(chunks));
        let bubble = timeline.bubble();
        println!(
            "{stages:>6}  {chunks:>6}  {MICROBATCHES:>12}  {:>5.1}%  {:>5.1}%  {:>5.2}{}",
            100.0 * bubble,
            100.0 * theory,
            bubble / theory,
            bounds.at_most(bubble / theory, BOUND)
        );
    }
    bounds.finish()
}
