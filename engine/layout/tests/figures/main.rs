//! The figures of docs/parallelism.md match the code. `UPDATE=1` redraws them.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod draw;

use draw::{boxes_svg, shards_svg, timeline_svg};
use neva_layout::{Action, Families, Pass, Timeline, schedule};
use neva_schemas::{LlavaModel, Model, VisionPlacement};
use std::path::Path;

#[track_caller]
fn check(name: &str, svg: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/parallelism").join(name);
    if std::env::var_os("UPDATE").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, svg).unwrap();
    }
    let stored = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        stored == svg,
        "docs/parallelism/{name} differs from the code's figure: run UPDATE=1 cargo test --release --workspace --test figures"
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
