//! The figures of docs/parallelism.md and docs/fp8.md match the code. `UPDATE=1` redraws them.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod draw;

use draw::{boxes_svg, shards_svg, timeline_svg};
use neva_layout::{Action, Families, Fp8Linears, Pass, Timeline, schedule};
use neva_schemas::{Finetune, Fp8Format, Fp8Recipe, LlavaModel, MixedPrecision, Model, Plugins, Precision, VisionPlacement};
use std::path::Path;

#[track_caller]
fn check(name: &str, svg: &str) {
    check_in("parallelism", name, svg);
}

#[track_caller]
fn check_in(folder: &str, name: &str, svg: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(folder).join(name);
    if std::env::var_os("UPDATE").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, svg).unwrap();
    }
    let stored = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        stored == svg,
        "docs/{folder}/{name} differs from the code's figure: run UPDATE=1 cargo test --release --workspace --test figures"
    );
}

fn timeline(stages: usize, chunks: usize, microbatches: usize) -> Timeline {
    let schedules: Vec<_> = (0..stages).map(|stage| schedule(stage, stages, chunks, microbatches)).collect();
    let cost = |_, action: Action| if action.pass == Pass::Forward { 1.0 } else { 2.0 } / chunks as f64;
    Timeline::replay(&schedules, chunks, cost).unwrap()
}

#[test]
fn of_schedules() {
    let one = timeline(4, 1, 8);
    let bubble = |timeline: &Timeline| format!("{:.1} %", 100.0 * timeline.bubble());
    check(
        "1f1b.svg",
        &timeline_svg(&one, &format!("1F1B: 4 stages, 8 microbatches, bubble {}", bubble(&one)), 24.0),
    );
    let interleaved = timeline(4, 2, 8);
    let title = format!("interleaved: 4 stages of 2 chunks, 8 microbatches, bubble {}", bubble(&interleaved));
    check("interleaved.svg", &timeline_svg(&interleaved, &title, 26.0));
}

#[test]
fn of_cut_matrices() {
    let model = Model::Llava(LlavaModel::default());
    let specs = Families::builtin()
        .resolve(&model, "model")
        .unwrap()
        .parameters(VisionPlacement::Shared);
    let named = [
        "embed_tokens",
        "layers.0.self_attn.q_proj",
        "layers.0.self_attn.o_proj",
        "layers.0.mlp.gate_proj",
        "layers.0.mlp.down_proj",
        "layers.0.input_layernorm",
    ];
    let find = |name: &str| {
        let full = format!("model.language_model.{name}.weight");
        specs.iter().find(|spec| spec.name == full).unwrap().clone()
    };
    let chosen: Vec<_> = named.iter().map(|name| find(name)).collect();
    check("tensor.svg", &shards_svg("shards of 2 tensor-parallel ranks", &chosen, 2));
}

#[test]
fn of_ranks() {
    // 16 ranks: tensor 2, context 2, data 2, pipeline 2.
    let row = |name: &str, stride: usize| {
        let boxes = (0..16).map(|rank| (rank.to_string(), rank / stride % 2)).collect();
        (name.to_owned(), boxes)
    };
    let rows = [row("tensor", 1), row("context", 2), row("data", 4), row("pipeline", 8)];
    check(
        "mesh.svg",
        &boxes_svg(
            "16 ranks, 2 along each axis: ranks of one colour have the same coordinate on the axis",
            &rows,
        ),
    );
}

/// Colours of a part in FP8, in bf16, and of values that are fp32 inside.
const FP8: usize = 0;
const BF16: usize = 2;
const FP32: usize = 4;

#[test]
fn of_precisions() {
    let mut model = LlavaModel::default();
    model.text_config.num_hidden_layers = 4;
    let mut finetune = Finetune::evaluation(Model::Llava(model), Precision::Bf16Mixed);
    finetune.trainer.plugins = Plugins::MixedPrecision(MixedPrecision {
        fp8: Some(Fp8Format::Hybrid),
        fp8_recipe: Fp8Recipe::Tensorwise,
        first_last_layers_bf16: true,
        num_layers_at_start_in_bf16: 1,
        num_layers_at_end_in_bf16: 1,
        ..MixedPrecision::default()
    });
    let specs = Families::builtin().resolve(&finetune.model, "model").unwrap();
    let specs = specs.parameters(VisionPlacement::Shared);
    let fp8 = Fp8Linears::of(&finetune).unwrap();
    let colour = |name: &str| {
        let spec = specs.iter().find(|spec| spec.name.ends_with(name)).unwrap();
        if fp8.covers(spec) { FP8 } else { BF16 }
    };
    let named = |boxes: &[(&str, usize)]| {
        boxes
            .iter()
            .map(|(label, colour)| ((*label).to_owned(), *colour))
            .collect::<Vec<_>>()
    };
    let layer = |prefix: &str, linears: &[(&str, &str)]| {
        let linear = |(label, name): &(&str, &str)| match name.is_empty() {
            true => ((*label).to_owned(), FP32),
            false => ((*label).to_owned(), colour(&format!("{prefix}{name}.weight"))),
        };
        linears.iter().map(linear).collect::<Vec<_>>()
    };
    let attention = [("q", "q_proj"), ("k", "k_proj"), ("v", "v_proj")].map(|(label, name)| (label, format!("self_attn.{name}")));
    let mut rows = vec![
        (
            "vision".to_owned(),
            layer(
                "vision_tower.encoder.layers.0.",
                &[
                    ("q", "self_attn.q_proj"),
                    ("k", "self_attn.k_proj"),
                    ("v", "self_attn.v_proj"),
                    ("o", "self_attn.out_proj"),
                    ("fc1", "mlp.fc1"),
                    ("fc2", "mlp.fc2"),
                ],
            ),
        ),
        (
            "projector".to_owned(),
            layer("multi_modal_projector.", &[("fc1", "linear_1"), ("fc2", "linear_2")]),
        ),
        ("embedding".to_owned(), named(&[("table", BF16)])),
    ];
    for number in 0..4 {
        let [q, k, v] = attention.each_ref().map(|(label, name)| (*label, name.as_str()));
        let linears = [
            ("norm", ""),
            q,
            k,
            v,
            ("softmax", ""),
            ("o", "self_attn.o_proj"),
            ("norm", ""),
            ("gate", "mlp.gate_proj"),
            ("up", "mlp.up_proj"),
            ("down", "mlp.down_proj"),
        ];
        rows.push((
            format!("layer {number}"),
            layer(&format!("language_model.layers.{number}."), &linears),
        ));
    }
    rows.push(("head".to_owned(), named(&[("norm", FP32), ("head", BF16), ("loss", FP32)])));
    rows.push(("colours".to_owned(), named(&[("fp8", FP8), ("bf16", BF16), ("fp32", FP32)])));
    check_in(
        "fp8",
        "precision.svg",
        &boxes_svg(
            "bf16_with_fp8_current_scaling_mixed: operands of each product, and fp32 inside",
            &rows,
        ),
    );
}
