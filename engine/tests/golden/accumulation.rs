//! Gradient accumulation, in both normalizations (`grad_accum.json`).

use crate::case::{HfBatch, close, finetune, json, model, on_mesh, roots, trainer, whole};
use neva_engine::checkpoint::TensorFile;
use neva_engine::comm::Axis;
use neva_schemas::{LossNormalization, ParallelSizes};
use std::collections::BTreeMap;
use tch::Kind;

#[test]
fn golden_accumulation() {
    for root in roots().iter().filter(|root| root.join("grad_accum.json").is_file()) {
        for (key, normalization) in [
            ("mean_of_means", LossNormalization::Microbatch),
            ("token_weighted", LossNormalization::GlobalToken),
        ] {
            check(root, key, normalization, 1);
            check(root, key, normalization, 3);
            println!("{}: {key}: ok", root.display());
        }
    }
}

/// Checks the three samples as three microbatches of one rank, or one on each of three ranks.
fn check(root: &std::path::Path, key: &str, normalization: LossNormalization, ranks: u32) {
    let golden = json(&root.join("grad_accum.json"));
    let folder = root.join("llava_clip_llama");
    let model = model(&folder).unwrap();
    let mut finetune = finetune(&folder, model.clone());
    finetune.trainer.loss_normalization = normalization;
    let expected = &golden[key];
    on_mesh(
        ParallelSizes {
            dp: ranks,
            ..ParallelSizes::ONE
        },
        |mesh| {
            // The rows of `accumulation` in tests/fixtures/make_fixtures.py.
            let file = TensorFile::open(&root.join("train_batches.safetensors")).unwrap();
            let row = |batch: &str, row: i64| HfBatch::read(&file, batch).narrow(row, 1, &model).microbatch(&model);
            let all = [row("batch0.", 0), row("batch2.", 1), row("batch1.", 0)];
            let rank = mesh.axis(Axis::Data).rank();
            let mine = if ranks == 1 { &all[..] } else { &all[rank..=rank] };
            let mut trainer = trainer(&finetune, mesh.clone());
            let report = trainer.accumulate(mine).unwrap();
            close("objective", report.objective, expected["loss"].as_f64().unwrap(), 1e-5, 1.0);
            close("loss", report.loss.unwrap(), golden["one_batch_loss"].as_f64().unwrap(), 1e-5, 1.0);
            assert_eq!(report.labels, golden["tokens"].as_u64().unwrap());
            let norms: BTreeMap<_, _> = trainer
                .gradients()
                .filter_map(|(parameter, gradient)| {
                    Some((
                        parameter.spec.name.clone(),
                        whole(parameter, gradient?, &mesh).to_kind(Kind::Double).norm().double_value(&[]),
                    ))
                })
                .collect();
            for (parameter, norm) in expected["grad_l2"].as_object().unwrap() {
                let floor = if parameter.ends_with("k_proj.bias") { 1e-2 } else { 1e-6 };
                close(parameter, norms[parameter], norm.as_f64().unwrap(), 1e-3, floor);
            }
        },
    );
}
