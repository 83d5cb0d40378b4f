//! Five optimizer steps, full and LoRA, against `torch.optim.AdamW` and `peft`.

use crate::case::{HfBatch, base, close, difference, each_case, finetune, json, name, on_mesh, trainer, whole};
use neva_engine::checkpoint::TensorFile;
use neva_engine::comm::{Axis, Mesh};
use neva_engine::trainer::Trainer;
use neva_schemas::{AdamW, Finetune, LlavaModel, LoRA, Optim, ParallelSizes, ParamGroup, Peft};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use tch::Tensor;

const ONE: ParallelSizes = ParallelSizes::ONE;

#[test]
fn golden_training_one_rank() {
    check(ONE);
}

#[test]
fn golden_training_tensor_parallel_2() {
    check(ParallelSizes { tp: 2, ..ONE });
}

/// More ranks than key heads: each head is copied.
#[test]
fn golden_training_tensor_parallel_4() {
    check(ParallelSizes { tp: 4, ..ONE });
}

#[test]
fn golden_training_tensor_and_sequence_parallel_2() {
    check_with(ParallelSizes { tp: 2, ..ONE }, true);
}

#[test]
fn golden_training_data_parallel_2() {
    check(ParallelSizes { dp: 2, ..ONE });
}

fn check(sizes: ParallelSizes) {
    check_with(sizes, false);
}

fn check_with(sizes: ParallelSizes, sequence_parallel: bool) {
    each_case("trace.json", |folder, model| {
        let trace = json(&folder.join("trace.json"));
        on_mesh(sizes, |mesh| train(folder, &base(folder), model, &trace, mesh, sequence_parallel));
    });
}

fn train(folder: &Path, base: &Path, model: &LlavaModel, trace: &Value, mesh: Mesh, sequence_parallel: bool) {
    let case = name(folder);
    let lora = folder.join("adapter_init").is_dir();
    let mut finetune = configure(folder, base, model, trace, lora);
    finetune.trainer.strategy.sequence_parallel = sequence_parallel;
    let second = finetune.optim.param_groups().first().and_then(|group| group.lr);
    let mut trainer = trainer(&finetune, mesh.clone());
    if lora {
        put_adapter(&trainer, &folder.join("adapter_init/adapter_model.safetensors"), &mesh);
    }
    let batches = TensorFile::open(&folder.with_file_name("train_batches.safetensors")).unwrap();
    for (step, expected) in trace["steps"].as_array().unwrap().iter().enumerate() {
        // The trace's groups differ in their rates only if saved modules have their own rate.
        let rates = expected["lr"].as_array().unwrap();
        let rate = |peak: f64| {
            if Some(peak) == second && rates.len() > 1 {
                rates[1].as_f64().unwrap()
            } else {
                rates[0].as_f64().unwrap()
            }
        };
        let mine = local_rows(&HfBatch::read(&batches, &format!("batch{step}.")).padded(2), model, &mesh);
        let report = trainer.step(&[mine.microbatch(model)], rate, step as u64).unwrap();
        close(
            &format!("{case}: loss of step {step}"),
            report.loss.unwrap(),
            expected["loss"].as_f64().unwrap(),
            1e-5,
            1.0,
        );
        let norm = expected["grad_norm_before_clip"].as_f64().unwrap();
        close(
            &format!("{case}: gradient norm of step {step}"),
            report.grad_norm.unwrap(),
            norm,
            1e-4,
            1.0,
        );
        if step == 0 {
            check_gradients(folder, trace, &trainer, &mesh);
        }
        let touched = trainer.gradients().filter(|(_, gradient)| gradient.is_some()).count() as u64;
        assert_eq!(
            touched,
            expected["params_with_grad"].as_u64().unwrap(),
            "{case}: parameters with a gradient in step {step}"
        );
    }
    for (step, expected) in trace["final_losses"].as_array().unwrap().iter().enumerate() {
        let mine = local_rows(&HfBatch::read(&batches, &format!("batch{step}.")).padded(2), model, &mesh);
        let report = trainer.accumulate(&[mine.microbatch(model)]).unwrap();
        close(
            &format!("{case}: loss of batch {step} after training"),
            report.loss.unwrap(),
            expected.as_f64().unwrap(),
            1e-4,
            1.0,
        );
    }
    let (file, prefix) = if lora {
        (
            TensorFile::open(&folder.join("adapter_final/adapter_model.safetensors")).unwrap(),
            "base_model.model.",
        )
    } else {
        (TensorFile::open(&folder.join("final_weights.safetensors")).unwrap(), "")
    };
    let mut compared = 0;
    for (key, _) in file.tensors() {
        // Adam turns the rounding noise of a key's bias into steps of the learning rate.
        if key.contains("vision_tower") && key.ends_with("k_proj.bias") {
            continue;
        }
        let parameter = trainer.parameters().get(key.strip_prefix(prefix).unwrap()).unwrap();
        let off = difference(
            &whole(parameter, &parameter.tensor.detach(), &mesh),
            &file.read(&key, None).unwrap(),
        );
        assert!(off <= 1e-3, "{case}: {key} is off by {off:e} after training");
        compared += 1;
    }
    assert!(compared > 0, "{case}: no weight was compared");
}

/// Compares the gradients of the first step, if the trace holds them.
fn check_gradients(folder: &Path, trace: &Value, trainer: &Trainer, mesh: &Mesh) {
    let path = folder.join("grads_step0.safetensors");
    if !path.is_file() {
        return;
    }
    assert!(
        trace["clip"].is_null(),
        "the trace holds gradients before clipping, the trainer those behind it"
    );
    let file = TensorFile::open(&path).unwrap();
    let gradients: BTreeMap<_, _> = trainer
        .gradients()
        .filter_map(|(parameter, gradient)| Some((parameter.spec.name.clone(), whole(parameter, gradient?, mesh))))
        .collect();
    for key in file.tensors().into_keys() {
        let parameter = key.strip_prefix("base_model.model.").unwrap_or(&key);
        let parameter = parameter.replace(".modules_to_save.default.", ".").replace(".default.", ".");
        let parameter = parameter.replace("lora_magnitude_vector.weight", "lora_magnitude_vector");
        let found = gradients
            .get(&parameter)
            .unwrap_or_else(|| panic!("{}: no gradient of {parameter}", name(folder)));
        let off = difference(found, &file.read(&key, None).unwrap());
        assert!(off <= 1e-3, "{}: gradient of {parameter} in step 0 is off by {off:e}", name(folder));
    }
}

/// Reads the optimizer's settings, which the trace holds as text.
fn configure(folder: &Path, base: &Path, model: &LlavaModel, trace: &Value, lora: bool) -> Finetune {
    let mut model = model.clone();
    model.freeze_vision_model = trace["frozen"] == "vision_tower";
    let mut finetune = finetune(base, model);
    let words = trace["optimizer"].as_str().unwrap();
    let decay = words.split("wd ").nth(1).unwrap().split([' ', ',', ';']).next().unwrap();
    assert!(words.contains("betas .9,.999 eps 1e-8"), "{words}");
    let saved = words.split_once("group1 ").map(|(_, group)| group.split(' ').next().unwrap());
    let trains_projector = saved == Some("projector");
    finetune.optim = Optim::AdamW(AdamW {
        weight_decay: format!("0{decay}").parse().unwrap(),
        betas: (0.9, 0.999),
        eps: 1e-8,
        clip_grad: trace["clip"].as_f64().unwrap_or(0.0),
        mm_projector_lr: trains_projector.then_some(1e-4),
        param_groups: Vec::new(),
        ..AdamW::default()
    });
    let groups = finetune.optim.param_groups_mut();
    groups.extend(saved.map(|module| ParamGroup {
        params: vec![format!("*{module}*")],
        lr: Some(1e-4),
        weight_decay: Some(0.0),
    }));
    groups.push(ParamGroup {
        params: vec!["*lora_magnitude_vector".into()],
        lr: None,
        weight_decay: Some(0.01),
    });
    if lora {
        let config = json(&folder.join("adapter_init/adapter_config.json"));
        let file = TensorFile::open(&folder.join("adapter_init/adapter_model.safetensors")).unwrap();
        let linears = file
            .tensors()
            .into_keys()
            .filter_map(|key| Some(key.strip_prefix("base_model.model.")?.strip_suffix(".lora_A.weight")?.to_owned()));
        finetune.peft = Some(Peft::LoRA(LoRA {
            target_modules: linears.collect(),
            dim: config["r"].as_u64().unwrap() as usize,
            alpha: config["lora_alpha"].as_f64().unwrap(),
            use_rslora: config["use_rslora"].as_bool().unwrap(),
            use_dora: config["use_dora"].as_bool().unwrap(),
            rank_pattern: serde_json::from_value(config["rank_pattern"].clone()).unwrap(),
            alpha_pattern: serde_json::from_value(config["alpha_pattern"].clone()).unwrap(),
            modules_to_save: serde_json::from_value::<Option<_>>(config["modules_to_save"].clone())
                .unwrap()
                .unwrap_or_default(),
            freeze_vision_model: true,
            ..LoRA::default()
        }));
        finetune.model.as_llava_mut().unwrap().freeze_vision_projection = !trains_projector;
    }
    finetune
}

/// Returns this data-parallel rank's rows.
fn local_rows(batch: &HfBatch, model: &LlavaModel, mesh: &Mesh) -> HfBatch {
    let group = mesh.axis(Axis::Data);
    let each = batch.rows() / group.size() as i64;
    batch.narrow(group.rank() as i64 * each, each, model)
}

fn put_adapter(trainer: &Trainer, path: &Path, mesh: &Mesh) {
    let file = TensorFile::open(path).unwrap();
    let group = mesh.axis(Axis::Tensor);
    for (key, _) in file.tensors() {
        let parameter = trainer.parameters().get(key.strip_prefix("base_model.model.").unwrap()).unwrap();
        let value: Tensor = file.read(&key, parameter.spec.shard(group.rank(), group.size())).unwrap();
        tch::no_grad(|| parameter.tensor.shallow_clone().copy_(&value));
    }
}
