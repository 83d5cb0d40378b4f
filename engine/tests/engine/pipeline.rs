//! Pipelines: the same losses and weights as one rank, whatever each stage holds.

use crate::layout::{Layout, four_layers, mixed, pipeline};
use crate::setting::{ONE, Samples, adapters, close, close_tensors, lora, microbatches, mock, on_mesh, train, trainer, within_limit};
use neva_layout::{most_in_flight, schedule};
use neva_schemas::Finetune;

const STEPS: u64 = 10;

#[track_caller]
fn check(name: &str, layouts: &[Layout], change: impl FnOnce(&mut Finetune)) {
    let mut finetune = four_layers();
    change(&mut finetune);
    let samples = Samples::edited(&finetune, mixed);
    let expected = train(&finetune, &samples, ONE, STEPS);
    for layout in layouts {
        let got = train(&layout.of(&finetune), &samples, layout.sizes, STEPS);
        let name = format!("{name}, {layout:?}");
        close(&format!("{name}: loss"), &got.losses, &expected.losses, 1e-5);
        close_tensors(&name, &got.weights, &expected.weights, 1e-4);
    }
}

fn all() -> Vec<Layout> {
    vec![
        pipeline(2),
        pipeline(4),
        pipeline(2).chunks(2),
        pipeline(2).over(2, 1),
        pipeline(2).over(2, 1).sequence_parallel(),
        pipeline(2).chunks(2).over(1, 2),
    ]
}

#[test]
fn of_the_whole_model() {
    within_limit(|| check("full", &all(), |_| {}));
}

#[test]
fn of_adapters() {
    within_limit(|| {
        check("LoRA", &all(), lora);
    });
}

/// Every pair of axes, three at once, and eight ranks of everything.
fn together() -> Vec<Layout> {
    vec![
        pipeline(1).over(2, 1).context(2),
        pipeline(2).context(2),
        pipeline(1).over(2, 2).sequence_parallel().distributed(),
        pipeline(2).over(2, 1).context(2).sequence_parallel(),
        pipeline(2).chunks(2).over(1, 2).distributed(),
        pipeline(2).over(1, 2).context(2).distributed(),
    ]
}

#[test]
fn of_all_axes_together() {
    within_limit(|| check("full, together", &together(), |_| {}));
}

#[test]
fn of_adapters_on_all_axes_together() {
    within_limit(|| {
        check("LoRA, together", &together(), lora);
    });
}

#[test]
fn of_64_ranks() {
    within_limit(|| {
        let mut finetune = four_layers();
        mock(&mut finetune).seq_length = 32;
        let samples = Samples::of(&finetune);
        let expected = train(&finetune, &samples, ONE, 2);
        let layout = pipeline(4).over(4, 2).context(2).sequence_parallel().distributed();
        let got = train(&layout.of(&finetune), &samples, layout.sizes, 2);
        close("64 ranks: loss", &got.losses, &expected.losses, 1e-5);
        close_tensors("64 ranks", &got.weights, &expected.weights, 1e-4);
    });
}

#[test]
fn of_uneven_stages() {
    within_limit(|| {
        let layouts = [
            pipeline(2).ends(Some(1), None),
            pipeline(3).ends(Some(1), Some(1)),
            // The vision encoder on a stage of its own.
            pipeline(3).ends(Some(0), None),
        ];
        check("uneven", &layouts, |_| {});
    });
}

#[test]
fn of_frozen_parts() {
    within_limit(|| {
        let layouts = [pipeline(2), pipeline(4), pipeline(2).chunks(2)];
        check("frozen vision encoder", &layouts, |finetune| {
            finetune.model.llava_mut().freeze_vision_model = true
        });
        // The later stages train nothing, the first one the projector.
        check("frozen language model", &layouts, |finetune| {
            finetune.model.llava_mut().freeze_language_model = true
        });
        // Nothing in front of the second stage is trained: no gradient travels.
        check("adapters of the last layer", &layouts, |finetune| {
            adapters(finetune, &["*.layers.3.*.linear_fc1"]);
            let model = finetune.model.llava_mut();
            (model.freeze_vision_model, model.freeze_vision_projection) = (true, true);
        });
    });
}

#[test]
fn of_a_tied_head() {
    within_limit(|| {
        let layouts = [pipeline(2), pipeline(4), pipeline(2).chunks(2).over(2, 1)];
        check("tied head", &layouts, |finetune| {
            finetune.model.llava_mut().text_config.tie_word_embeddings = true
        });
    });
}

#[test]
fn of_numbers_of_micro_batches_that_are_no_multiple_of_the_stages() {
    within_limit(|| {
        let layouts = [pipeline(2).chunks(2), pipeline(4)];
        for micro_batch_size in [8, 1] {
            check("micro-batches", &layouts, |finetune| {
                mock(finetune).micro_batch_size = micro_batch_size
            });
        }
        check("three micro-batches", &layouts, |finetune| {
            let data = mock(finetune);
            (data.global_batch_size, data.micro_batch_size) = (6, 2);
        });
    });
}

#[test]
fn stages_hold_as_many_activations_as_the_schedule_says() {
    within_limit(|| {
        for (stages, chunks) in [(2, 1), (4, 1), (2, 2)] {
            let layout = pipeline(stages);
            let layout = if chunks > 1 { layout.chunks(chunks) } else { layout };
            let mut finetune = layout.of(&four_layers());
            mock(&mut finetune).micro_batch_size = 1;
            let samples = Samples::of(&finetune);
            let held = on_mesh(layout.sizes, |mesh| {
                let mut trainer = trainer(&finetune, mesh.clone());
                trainer.step(&microbatches(&finetune, &samples, &mesh, 0), |peak| peak, 0).unwrap();
                trainer.stage_report().most_in_flight
            });
            let theory = |stage: usize| match chunks {
                1 => (stages as usize - stage).min(8),
                _ => most_in_flight(&schedule(stage, stages as usize, chunks as usize, 8)),
            };
            let expected: Vec<_> = (0..stages as usize).map(theory).collect();
            assert_eq!(held, expected, "{stages} stages of {chunks} chunks");
        }
    });
}
