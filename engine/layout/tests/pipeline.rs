//! Schedules and stages of the pipeline.
#![expect(
    clippy::single_range_in_vec_init,
    clippy::type_complexity,
    reason = "a table of layers: some stages hold a single range"
)]

use neva_layout::{Action, ChunkSpec, Families, Pass, Stages, Timeline, forward_schedule, lora_adapters, most_in_flight, schedule};
use neva_schemas::{LlavaModel, LoRA, MegatronStrategy, Model, VisionPlacement};
use std::collections::BTreeSet;

fn text(actions: &[Action]) -> String {
    let word = |action: &Action| {
        let pass = match action.pass {
            Pass::Forward => 'F',
            Pass::Backward => 'B',
        };
        let chunk = char::from(b'a' + action.chunk as u8);
        format!("{pass}{}{chunk}", action.microbatch)
    };
    actions.iter().map(word).collect::<Vec<_>>().join(" ")
}

#[test]
fn one_forward_one_backward() {
    assert_eq!(text(&schedule(0, 1, 1, 3)), "F0a B0a F1a B1a F2a B2a");
    assert_eq!(text(&schedule(0, 4, 1, 5)), "F0a F1a F2a F3a B0a F4a B1a B2a B3a B4a");
    assert_eq!(text(&schedule(3, 4, 1, 3)), "F0a B0a F1a B1a F2a B2a");
    assert_eq!(text(&schedule(0, 4, 1, 2)), "F0a F1a B0a B1a");
    // Figure 4 of arXiv:2104.04473, upper part of the first device, with two devices.
    assert_eq!(
        text(&schedule(0, 2, 2, 4)),
        "F0a F1a F0b F1b F2a B0b F3a B1b F2b B0a F3b B1a B2b B3b B2a B3a"
    );
    assert_eq!(
        text(&schedule(1, 2, 2, 4)),
        "F0a F1a F0b B0b F1b B1b F2a B0a F3a B1a F2b B2b F3b B3b B2a B3a"
    );
    assert_eq!(text(&forward_schedule(0, 2, 2, 3)), "F0a F1a F0b F1b F2a F2b");
}

#[test]
fn every_schedule_ends_and_runs_every_action_once() {
    for stages in 1..=5 {
        for chunks in 1..=if stages == 1 { 1 } else { 4 } {
            for microbatches in 0..=3 * stages + 2 {
                let case = format!("{stages} stages, {chunks} chunks, {microbatches} microbatches");
                let schedules: Vec<_> = (0..stages).map(|stage| schedule(stage, stages, chunks, microbatches)).collect();
                for (stage, actions) in schedules.iter().enumerate() {
                    let all: BTreeSet<_> = actions.iter().copied().collect();
                    assert_eq!(
                        (all.len(), actions.len()),
                        (2 * chunks * microbatches, 2 * chunks * microbatches),
                        "{case}"
                    );
                    // A backward pass comes after its own forward pass.
                    for (at, action) in actions.iter().enumerate().filter(|(_, action)| action.pass == Pass::Backward) {
                        let forward = Action {
                            pass: Pass::Forward,
                            ..*action
                        };
                        assert!(actions[..at].contains(&forward), "{case}, stage {stage}");
                    }
                    if chunks == 1 {
                        // At most PP - rank microbatches are in flight.
                        assert_eq!(most_in_flight(actions), (stages - stage).min(microbatches), "{case}, stage {stage}");
                    }
                }
                let timeline = Timeline::replay(&schedules, chunks, |_, _| 1.0);
                assert!(timeline.is_some(), "{case}: stages wait for each other");
                let forward: Vec<_> = (0..stages)
                    .map(|stage| forward_schedule(stage, stages, chunks, microbatches))
                    .collect();
                assert!(Timeline::replay(&forward, chunks, |_, _| 1.0).is_some(), "{case}, forward only");
            }
        }
    }
}

#[test]
fn the_bubble_matches_theory() {
    for (stages, chunks, microbatches) in [(2, 1, 4), (4, 1, 8), (4, 2, 8), (4, 4, 8), (2, 2, 2), (8, 1, 8), (3, 2, 9)] {
        let schedules: Vec<_> = (0..stages).map(|stage| schedule(stage, stages, chunks, microbatches)).collect();
        // A backward pass costs twice a forward pass; a model chunk costs its number of layers.
        let cost = |_, action: Action| if action.pass == Pass::Forward { 1.0 } else { 2.0 } / chunks as f64;
        let got = Timeline::replay(&schedules, chunks, cost).unwrap().bubble();
        let expected = (stages - 1) as f64 / (chunks * microbatches) as f64;
        assert!(
            (got - expected).abs() < 1e-9,
            "{stages} stages, {chunks} chunks, {microbatches} microbatches: {got} for {expected}"
        );
    }
}

fn strategy(stages: u32, chunks: u32, first: Option<u32>, last: Option<u32>) -> MegatronStrategy {
    MegatronStrategy {
        pipeline_model_parallel_size: stages,
        virtual_pipeline_model_parallel_size: (chunks > 1).then_some(chunks),
        num_layers_in_first_pipeline_stage: first,
        num_layers_in_last_pipeline_stage: last,
        ..MegatronStrategy::default()
    }
}

#[test]
fn layers_are_split_among_chunks() {
    let cases: [(u32, u32, Option<u32>, Option<u32>, &[&[std::ops::Range<usize>]]); 7] = [
        (1, 1, None, None, &[&[0..8]]),
        (2, 1, None, None, &[&[0..4], &[4..8]]),
        // Megatron: chunk v of stage s holds layers v p k + s k.. of k each.
        (2, 2, None, None, &[&[0..2, 4..6], &[2..4, 6..8]]),
        (4, 2, None, None, &[&[0..1, 4..5], &[1..2, 5..6], &[2..3, 6..7], &[3..4, 7..8]]),
        (3, 1, Some(2), Some(2), &[&[0..2], &[2..6], &[6..8]]),
        (3, 1, Some(0), None, &[&[0..0], &[0..4], &[4..8]]),
        (2, 2, Some(2), None, &[&[0..1, 4..5], &[1..4, 5..8]]),
    ];
    for (stages, chunks, first, last, expected) in cases {
        let got = Stages::of(&strategy(stages, chunks, first, last), 8).unwrap();
        assert_eq!((got.stages(), got.chunks()), (stages as usize, chunks as usize));
        for (stage, expected) in expected.iter().enumerate() {
            let chunk_specs = got.chunk_specs(stage);
            let layers: Vec<_> = chunk_specs.iter().map(|chunk| chunk.layers.clone()).collect();
            assert_eq!(layers, *expected, "{stages} {chunks} {first:?} {last:?}, stage {stage}");
            assert_eq!(chunk_specs[0].first, stage == 0);
            assert_eq!(chunk_specs[chunks as usize - 1].last, stage + 1 == stages as usize);
        }
    }
}

#[test]
fn an_uneven_split_is_refused_with_the_nearest_valid_one() {
    let cases = [
        (
            3,
            1,
            None,
            None,
            "8 layers cannot be divided evenly among 3 pipeline ranks",
            "nearest that divides 8 layers: 2 pipeline ranks; or set the layers of the first and the last stage: num_layers_in_first_pipeline_stage, num_layers_in_last_pipeline_stage",
        ),
        (
            2,
            3,
            None,
            None,
            "8 layers cannot be divided evenly among 2 pipeline ranks of 3 chunks each",
            "nearest that divides 8 layers: 2 pipeline ranks of 2 chunks each",
        ),
        (
            1,
            2,
            None,
            None,
            "2 chunks on each pipeline rank, but there is one pipeline rank",
            "set pipeline_model_parallel_size to 2, or virtual_pipeline_model_parallel_size to null",
        ),
        (
            2,
            2,
            Some(3),
            None,
            "`num_layers_in_first_pipeline_stage` is 3, which cannot be divided evenly among 2 chunks",
            "nearest that fits: 2",
        ),
        (
            2,
            2,
            Some(0),
            None,
            "`num_layers_in_first_pipeline_stage` is 0, which cannot be divided evenly among 2 chunks",
            "nearest that fits: 2",
        ),
        (
            3,
            1,
            Some(5),
            Some(4),
            "the first and the last pipeline rank take 9 layers, but the model has 8",
            "nearest that fits: 3",
        ),
        (
            2,
            1,
            Some(5),
            Some(2),
            "the two pipeline ranks take 7 layers, but the model has 8",
            "nearest that fits: 6",
        ),
    ];
    for (stages, chunks, first, last, message, help) in cases {
        let error = Stages::of(&strategy(stages, chunks, first, last), 8).unwrap_err();
        assert_eq!((error.message.as_str(), error.help.as_str()), (message, help));
    }
}

#[test]
fn every_parameter_has_its_chunk() {
    let stages = Stages::of(&strategy(2, 2, None, None), 8).unwrap();
    let cases = [
        ("model.language_model.embed_tokens.weight", "0"),
        ("model.vision_tower.encoder.layers.5.mlp.fc1.weight", "0"),
        ("model.multi_modal_projector.linear_1.bias", "0"),
        ("model.language_model.layers.0.self_attn.q_proj.weight", "0"),
        ("model.language_model.layers.2.self_attn.linear_qkv.lora_A.weight", "1"),
        ("model.language_model.layers.5.mlp.up_proj.weight", "2"),
        ("model.language_model.layers.7.mlp.up_proj.weight", "3"),
        ("model.language_model.norm.weight", "3"),
        ("lm_head.weight", "3"),
    ];
    let rows = |tied| {
        let mut model = LlavaModel::default();
        model.text_config.num_hidden_layers = 8;
        model.text_config.tie_word_embeddings = tied;
        let table = Families::builtin().resolve(&Model::Llava(model), "model").unwrap();
        let mut rows = table.parameters(VisionPlacement::Shared);
        rows.extend(lora_adapters(&rows, &LoRA::default(), "peft").unwrap().parameters);
        rows
    };
    let held = |name: &str, tied| {
        let rows = rows(tied);
        let row = rows.iter().find(|row| row.name == name).unwrap_or_else(|| panic!("no row {name}"));
        assert!(ChunkSpec::whole(8).holds(row), "{name}");
        let numbers = (0..4).filter(|number| stages.chunk_spec(*number).holds(row));
        numbers.map(|number| number.to_string()).collect::<Vec<_>>().join(" ")
    };
    for (name, expected) in cases {
        assert_eq!(held(name, false), expected, "{name}");
    }
    assert_eq!(held("model.language_model.embed_tokens.weight", true), "0 3");
}
