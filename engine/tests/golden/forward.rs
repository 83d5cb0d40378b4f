//! Loss, logits and gradients of one batch, in every layout.

use crate::case::{HfBatch, close, difference, finetune, folders_with, json, model, name, on_mesh, trainer, whole};
use neva_engine::checkpoint::TensorFile;
use neva_engine::comm::{Axis, Mesh};
use neva_schemas::{LlavaModel, ParallelSizes};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use tch::{Device, Kind, Tensor};

const ONE: ParallelSizes = ParallelSizes::ONE;

#[test]
fn golden_one_rank() {
    check(ONE);
}

#[test]
fn golden_tensor_parallel_2() {
    check(ParallelSizes { tp: 2, ..ONE });
}

#[test]
fn golden_data_parallel_2() {
    check(ParallelSizes { dp: 2, ..ONE });
}

#[test]
fn golden_tensor_and_data_parallel_2() {
    check(ParallelSizes { tp: 2, dp: 2, ..ONE });
}

fn check(sizes: ParallelSizes) {
    let mut ran = 0;
    for folder in folders_with("golden.json") {
        let model = match model(&folder) {
            Ok(model) => model,
            Err(reason) => {
                println!("{}: refused: {reason}", name(&folder));
                continue;
            }
        };
        let text = &model.text_config;
        if !(text.num_key_value_heads.is_multiple_of(sizes.tp as usize) && text.num_attention_heads.is_multiple_of(sizes.tp as usize)) {
            println!(
                "{}: {} key heads cannot be cut over {} ranks",
                name(&folder),
                text.num_key_value_heads,
                sizes.tp
            );
            continue;
        }
        let golden = json(&folder.join("golden.json"));
        on_mesh(sizes, |mesh| batch_with_pictures(&folder, &model, &golden, mesh));
        on_mesh(sizes, |mesh| text_only_batch(&folder, &model, &golden, mesh));
        println!("{}: ok", name(&folder));
        ran += 1;
    }
    assert!(ran > 0, "no case ran");
}

fn batch_with_pictures(folder: &Path, model: &LlavaModel, golden: &Value, mesh: Mesh) {
    let case = name(folder);
    let file = TensorFile::open(&folder.join("golden.safetensors")).unwrap();
    let batch = HfBatch::read(&file, "");
    let mut trainer = trainer(&finetune(folder, model.clone()), mesh.clone());

    let whole_batch = batch.microbatch(model);
    let logits_bsv = tch::no_grad(|| trainer.logits(&whole_batch.batch)).unwrap();
    let index = file.read("logits_index", None).unwrap();
    let logits = logits_bsv.index(&[Some(index.select(1, 0)), Some(index.select(1, 1))]);
    let off = (logits - file.read("logits_at", None).unwrap()).abs().max().double_value(&[]);
    assert!(off <= 1e-4, "{case}: logits are off by {off:e}");

    // Data-parallel ranks share the rows out unevenly: one of them gets the row without pictures alone.
    let group = mesh.axis(Axis::Data);
    let (ranks, rank) = (group.size() as i64, group.rank() as i64);
    let each = (batch.rows() + ranks - 1) / ranks;
    let mine = batch.narrow(rank * each, each.min(batch.rows() - rank * each), model);
    let report = trainer.accumulate(&[mine.microbatch(model)]).unwrap();
    close(&format!("{case}: loss"), report.loss, golden["loss"].as_f64().unwrap(), 1e-5, 1.0);
    assert_eq!(report.labels, golden["n_label_tokens"].as_u64().unwrap(), "{case}: labelled tokens");

    let mut gradients: BTreeMap<String, Tensor> = BTreeMap::new();
    for (parameter, gradient) in trainer.gradients() {
        if let Some(gradient) = gradient {
            gradients.insert(parameter.spec.name.clone(), whole(parameter, gradient, &mesh));
        }
    }
    for (parameter, norm) in golden["grad_l2"].as_object().unwrap() {
        match (gradients.get(parameter), norm.as_f64()) {
            (Some(gradient), Some(norm)) => {
                // Softmax does not see a key's bias: its gradient is rounding noise.
                let floor = if parameter.ends_with("k_proj.bias") { 1e-2 } else { 1e-6 };
                close(
                    &format!("{case}: gradient norm of {parameter}"),
                    gradient.to_kind(Kind::Double).norm().double_value(&[]),
                    norm,
                    1e-3,
                    floor,
                );
            }
            (None, None) => {}
            (found, expected) => panic!(
                "{case}: {parameter}: gradient there: {}, expected: {}",
                found.is_some(),
                expected.is_some()
            ),
        }
    }
    for (key, _) in file.tensors() {
        if let Some(parameter) = key.strip_prefix("grad.") {
            let off = difference(&gradients[parameter], &file.read(&key, None).unwrap());
            assert!(off <= 1e-3, "{case}: gradient of {parameter} is off by {off:e}");
        } else if let Some(parameter) = key.strip_prefix("grad_rows.") {
            let rows = gradients[parameter].index_select(0, &file.read("grad_rows_index", None).unwrap());
            let off = difference(&rows, &file.read(&key, None).unwrap());
            assert!(off <= 1e-3, "{case}: gradient of {parameter} is off by {off:e}");
        }
    }
}

fn text_only_batch(folder: &Path, model: &LlavaModel, golden: &Value, mesh: Mesh) {
    let Some(case) = golden.get("text_only") else { return };
    let rows = |key: &str| -> Vec<Vec<i64>> { serde_json::from_value(case[key].clone()).unwrap() };
    let (input_ids, labels) = (rows("input_ids"), rows("labels"));
    let pad = golden["pad_token_id"].as_i64().unwrap();
    let tensor = |rows: &[Vec<i64>]| {
        Tensor::from_slice(&rows.concat())
            .view([rows.len() as i64, -1])
            .to_device(Device::Cpu)
    };
    let input_ids = tensor(&input_ids);
    let attention_mask = input_ids.ne(pad).to_kind(Kind::Int64);
    let batch = HfBatch {
        labels: tensor(&labels),
        attention_mask: attention_mask.shallow_clone(),
        input_ids,
        pixels: None,
    };
    let mut trainer = trainer(&finetune(folder, model.clone()), mesh.clone());
    let group = mesh.axis(Axis::Data);
    let each = batch.rows() / group.size() as i64;
    let mine = batch.narrow(group.rank() as i64 * each, each, model);
    let report = trainer.accumulate(&[mine.microbatch(model)]).unwrap();
    close(
        &format!("{}: text-only loss", name(folder)),
        report.loss,
        case["loss"].as_f64().unwrap(),
        1e-5,
        1.0,
    );
    for (parameter, gradient) in trainer.gradients() {
        let vision = parameter.spec.name.contains("vision_tower") || parameter.spec.name.contains("projector");
        assert_eq!(gradient.is_none(), vision, "{}: gradient of {}", name(folder), parameter.spec.name);
    }
    let logits_bsv = tch::no_grad(|| trainer.logits(&batch.microbatch(model).batch)).unwrap();
    let lengths: Vec<i64> = attention_mask
        .sum_dim_intlist([1].as_slice(), false, Kind::Int64)
        .try_into()
        .unwrap();
    for (row, length) in lengths.iter().enumerate() {
        let expected: Vec<f64> = serde_json::from_value(case["last_logits_first8"][row].clone()).unwrap();
        for (column, expected) in expected.iter().enumerate() {
            let got = logits_bsv.double_value(&[row as i64, length - 1, column as i64]);
            close(&format!("{}: text-only logit", name(folder)), got, *expected, 1e-4, 1.0);
        }
    }
}
