//! Pipeline parallelism: losses and weights match one rank for any split of the layers.

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
fn whole_model_matches_one_rank() {
    within_limit(|| check("full", &all(), |_| {}));
}

#[test]
fn adapters_match_one_rank() {
    within_limit(|| {
        check("LoRA", &all(), lora);
    });
}

/// Returns layouts with every pair of axes, with three, and with all of them.
fn combined() -> Vec<Layout> {
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
fn combined_axes_match_one_rank() {
    within_limit(|| check("full, combined", &combined(), |_| {}));
}

#[test]
fn adapters_on_combined_axes_match_one_rank() {
    within_limit(|| {
        check("LoRA, combined", &combined(), lora);
    });
}

#[test]
fn a_run_on_64_ranks_matches_one_rank() {
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
fn uneven_stages_match_one_rank() {
    within_limit(|| {
        let layouts = [
            pipeline(2).ends(Some(1), None),
            pipeline(3).ends(Some(1), Some(1)),
            // A stage with the vision encoder alone.
            pipeline(3).ends(Some(0), None),
        ];
        check("uneven", &layouts, |_| {});
    });
}

#[test]
fn frozen_parts_match_one_rank() {
    within_limit(|| {
        let layouts = [pipeline(2), pipeline(4), pipeline(2).chunks(2)];
        check("frozen vision encoder", &layouts, |finetune| {
            finetune.model.as_llava_mut().unwrap().freeze_vision_model = true
        });
        // The first stage trains the projector, later stages nothing.
        check("frozen language model", &layouts, |finetune| {
            finetune.model.as_llava_mut().unwrap().freeze_language_model = true
        });
        // Nothing before the second stage is trained: no gradient is sent.
        check("adapters of the last layer", &layouts, |finetune| {
            adapters(finetune, &["*.layers.3.*.linear_fc1"]);
            let model = finetune.model.as_llava_mut().unwrap();
            (model.freeze_vision_model, model.freeze_vision_projection) = (true, true);
        });
    });
}

#[test]
fn a_tied_head_matches_one_rank() {
    within_limit(|| {
        let layouts = [pipeline(2), pipeline(4), pipeline(2).chunks(2).over(2, 1)];
        check("tied head", &layouts, |finetune| {
            finetune.model.as_llava_mut().unwrap().text_config.tie_word_embeddings = true
        });
    });
}

#[test]
fn any_number_of_microbatches_matches_one_rank() {
    within_limit(|| {
        let layouts = [pipeline(2).chunks(2), pipeline(4)];
        for micro_batch_size in [8, 1] {
            check("microbatches", &layouts, |finetune| {
                mock(finetune).micro_batch_size = micro_batch_size
            });
        }
        check("three microbatches", &layouts, |finetune| {
            let data = mock(finetune);
            (data.global_batch_size, data.micro_batch_size) = (6, 2);
        });
    });
}

#[test]
fn stages_save_as_many_activations_as_in_theory() {
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
