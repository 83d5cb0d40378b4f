//! Loss, logits and gradients of one batch, in every layout.

use crate::alone::language_model_alone;
use crate::case::{HfBatch, close, difference, each_case, finetune, json, name, on_mesh, trainer, whole};
use neva_engine::checkpoint::TensorFile;
use neva_engine::comm::{Axis, Mesh};
use neva_schemas::{Finetune, LlavaModel, ParallelSizes};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
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

/// More ranks than key heads: each head is copied.
#[test]
fn golden_tensor_parallel_4() {
    check(ParallelSizes { tp: 4, ..ONE });
}

#[test]
fn golden_data_parallel_2() {
    check(ParallelSizes { dp: 2, ..ONE });
}

#[test]
fn golden_tensor_and_data_parallel_2() {
    check(ParallelSizes { tp: 2, dp: 2, ..ONE });
}

#[test]
fn golden_pipeline_2() {
    check(ParallelSizes { pp: 2, ..ONE });
}

#[test]
fn golden_tensor_parallel_4_in_a_pipeline_of_2() {
    check(ParallelSizes { tp: 4, pp: 2, ..ONE });
}

fn check(sizes: ParallelSizes) {
    each_case("golden.json", |folder, model| {
        let golden = json(&folder.join("golden.json"));
        let mut finetune = finetune(folder, model.clone());
        if sizes.pp > 1 {
            let strategy = &mut finetune.trainer.strategy;
            strategy.pipeline_model_parallel_size = sizes.pp;
            // Some cases have an odd number of layers.
            strategy.num_layers_in_first_pipeline_stage = Some(1);
        }
        let case = Case {
            folder,
            model,
            golden: &golden,
            finetune: &finetune,
        };
        let compared: BTreeSet<_> = on_mesh(sizes, |mesh| case.batch_with_images(mesh)).into_iter().flatten().collect();
        // A parameter without a gradient is not compared, and may not exist.
        let norms = golden["grad_l2"].as_object().unwrap().iter().filter(|(_, norm)| !norm.is_null());
        let expected: BTreeSet<_> = norms.map(|(parameter, _)| parameter.clone()).collect();
        assert_eq!(compared, expected, "{}: parameters whose gradients were compared", name(folder));
        on_mesh(sizes, |mesh| case.text_only_batch(mesh));
        let (_folder, mut alone) = language_model_alone(folder, model);
        alone.trainer.strategy = finetune.trainer.strategy.clone();
        let alone = Case { finetune: &alone, ..case };
        on_mesh(sizes, |mesh| alone.text_only_batch(mesh));
    });
}

/// Inputs of a case for the ranks of a mesh.
#[derive(Clone, Copy)]
struct Case<'a> {
    folder: &'a Path,
    model: &'a LlavaModel,
    golden: &'a Value,
    finetune: &'a Finetune,
}

impl Case<'_> {
    /// Compares this rank's results. Returns its parameters whose gradients were compared.
    fn batch_with_images(&self, mesh: Mesh) -> Vec<String> {
        let Self {
            folder,
            model,
            golden,
            finetune,
        } = *self;
        let case = name(folder);
        let file = TensorFile::open(&folder.join("golden.safetensors")).unwrap();
        let batch = HfBatch::read(&file, "");
        let mut trainer = trainer(finetune, mesh.clone());

        // A pipeline stage has no logits.
        if mesh.axis(Axis::Pipeline).size() == 1 {
            let whole_batch = batch.microbatch(model);
            let logits_bsv = tch::no_grad(|| trainer.logits(&whole_batch.batch)).unwrap();
            let index = file.read("logits_index", None).unwrap();
            let logits = logits_bsv.index(&[Some(index.select(1, 0)), Some(index.select(1, 1))]);
            let off = (logits - file.read("logits_at", None).unwrap()).abs().max().double_value(&[]);
            assert!(off <= 1e-4, "{case}: logits are off by {off:e}");
        }

        // The rows are partitioned unevenly: one data-parallel rank has only the row without images.
        let group = mesh.axis(Axis::Data);
        let (ranks, rank) = (group.size() as i64, group.rank() as i64);
        let each = (batch.rows() + ranks - 1) / ranks;
        let mine = batch.narrow(rank * each, each.min(batch.rows() - rank * each), model);
        let report = trainer.accumulate(&[mine.microbatch(model)]).unwrap();
        close(
            &format!("{case}: loss"),
            report.loss.unwrap(),
            golden["loss"].as_f64().unwrap(),
            1e-5,
            1.0,
        );
        assert_eq!(report.labels, golden["n_label_tokens"].as_u64().unwrap(), "{case}: labelled tokens");

        let mut gradients: BTreeMap<String, Tensor> = BTreeMap::new();
        for (parameter, gradient) in trainer.gradients() {
            if let Some(gradient) = gradient {
                gradients.insert(parameter.spec.name.clone(), whole(parameter, gradient, &mesh));
            }
        }
        let held = |parameter: &str| trainer.parameters().get(parameter).is_ok();
        let norms = golden["grad_l2"].as_object().unwrap();
        let norms: Vec<_> = norms.iter().filter(|(parameter, _)| held(parameter)).collect();
        for (parameter, norm) in &norms {
            match (gradients.get(*parameter), norm.as_f64()) {
                (Some(gradient), Some(norm)) => {
                    // Softmax ignores a key's bias: its gradient is rounding noise.
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
            let parameter = key.strip_prefix("grad_rows.").or_else(|| key.strip_prefix("grad."));
            if parameter.is_some_and(|parameter| !held(parameter)) {
                continue;
            }
            if let Some(parameter) = key.strip_prefix("grad.") {
                let off = difference(&gradients[parameter], &file.read(&key, None).unwrap());
                assert!(off <= 1e-3, "{case}: gradient of {parameter} is off by {off:e}");
            } else if let Some(parameter) = key.strip_prefix("grad_rows.") {
                let rows = gradients[parameter].index_select(0, &file.read("grad_rows_index", None).unwrap());
                let off = difference(&rows, &file.read(&key, None).unwrap());
                assert!(off <= 1e-3, "{case}: gradient of {parameter} is off by {off:e}");
            }
        }
        let compared = norms.into_iter().filter(|(_, norm)| !norm.is_null());
        compared.map(|(parameter, _)| parameter.clone()).collect()
    }

    fn text_only_batch(&self, mesh: Mesh) {
        let Self {
            folder,
            model,
            golden,
            finetune,
        } = *self;
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
        let mut trainer = trainer(finetune, mesh.clone());
        let group = mesh.axis(Axis::Data);
        let each = batch.rows() / group.size() as i64;
        let mine = batch.narrow(group.rank() as i64 * each, each, model);
        let report = trainer.accumulate(&[mine.microbatch(model)]).unwrap();
        close(
            &format!("{}: text-only loss", name(folder)),
            report.loss.unwrap(),
            case["loss"].as_f64().unwrap(),
            1e-5,
            1.0,
        );
        for (parameter, gradient) in trainer.gradients() {
            let vision = parameter.spec.name.contains("vision_tower") || parameter.spec.name.contains("projector");
            assert_eq!(gradient.is_none(), vision, "{}: gradient of {}", name(folder), parameter.spec.name);
        }
        if mesh.axis(Axis::Pipeline).size() > 1 {
            return;
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
}
