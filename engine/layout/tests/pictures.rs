//! The pictures of docs/parallelism.md are what the code does. `UPDATE=1` draws them anew.
#![expect(clippy::unwrap_used, reason = "a test panics where something is wrong")]

use neva_layout::{Action, Pass, Timeline, boxes_svg, llava_parameters, schedule, shards_svg};
use neva_schemas::{LlavaModel, VisionPlacement};
use std::path::Path;

#[track_caller]
fn check(name: &str, svg: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/parallelism").join(name);
    if std::env::var_os("UPDATE").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, svg).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        kept == svg,
        "docs/parallelism/{name} is not what the code draws: UPDATE=1 cargo test --release -p neva-layout"
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
        &one.svg(&format!("1F1B: 4 stages, 8 micro-batches, bubble {}", bubble(&one)), 24.0),
    );
    let interleaved = timeline(4, 2, 8);
    let title = format!(
        "interleaved: 4 stages of 2 chunks, 8 micro-batches, bubble {}",
        bubble(&interleaved)
    );
    check("interleaved.svg", &interleaved.svg(&title, 26.0));
}

#[test]
fn of_cut_matrices() {
    let specs = llava_parameters(&LlavaModel::default(), VisionPlacement::Shared);
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
    check("tensor.svg", &shards_svg("what each of 2 tensor-parallel ranks holds", &chosen, 2));
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
            "16 ranks, 2 along each axis: ranks of one colour stand at the same place of the axis",
            &rows,
        ),
    );
}
