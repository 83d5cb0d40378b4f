//! Hidden states by stage: each layer's output for the output of Hugging Face's previous layer.

use crate::case::{HfBatch, difference, each_case, finetune, json, name, on_mesh, sources};
use neva_engine::checkpoint::TensorFile;
use neva_engine::comm::{Axis, Mesh};
use neva_engine::trainer::LoadedModel;
use neva_schemas::{FeatureSelect, Finetune, LlavaModel, ParallelSizes};
use std::path::Path;
use tch::{Device, Tensor};

const ONE: ParallelSizes = ParallelSizes::ONE;

/// Largest difference, as a fraction of the largest value.
const TOLERANCE: f64 = 1e-5;

#[test]
fn golden_hidden_states_of_the_language_model() {
    for tp in [1, 2] {
        each_case("golden.json", |folder, model| {
            // The embedding on its own stage, then one layer on each stage.
            let pp = model.text_config.num_hidden_layers as u32 + 1;
            let mut finetune = finetune(folder, model.clone());
            let strategy = &mut finetune.trainer.strategy;
            (strategy.tensor_model_parallel_size, strategy.pipeline_model_parallel_size) = (tp, pp);
            strategy.num_layers_in_first_pipeline_stage = Some(0);
            on_mesh(ParallelSizes { tp, pp, ..ONE }, |mesh| check_stage(folder, model, &finetune, &mesh));
        });
    }
}

/// `lm_hidden.0` are the embeddings with the features of the images; the last one follows the final norm.
fn check_stage(folder: &Path, model: &LlavaModel, finetune: &Finetune, mesh: &Mesh) {
    let file = TensorFile::open(&folder.join("golden.safetensors")).unwrap();
    let state = |number: usize| file.read(&format!("lm_hidden.{number}"), None).unwrap();
    let stage = mesh.axis(Axis::Pipeline).rank();
    let batch = HfBatch::read(&file, "");
    let before = stage.checked_sub(1).map(state);
    let loaded = load(finetune, mesh);
    let [chunk] = &loaded.chunks[..] else {
        panic!("{} chunks", loaded.chunks.len())
    };
    let hidden = tch::no_grad(|| chunk.model.forward(&batch.microbatch(model).batch, before.as_ref())).unwrap();
    // Padding is not compared.
    let kept = batch.attention_mask.unsqueeze(-1);
    let off = difference(&(hidden * &kept), &(state(stage) * &kept));
    assert!(off <= TOLERANCE, "{}: lm_hidden.{stage} is off by {off:e}", name(folder));
}

#[test]
fn golden_hidden_states_of_the_vision_encoder() {
    each_case("golden.json", |folder, model| {
        let file = TensorFile::open(&folder.join("golden.safetensors")).unwrap();
        let pixels = file.read("pixel_values", None).unwrap();
        let check = |key: &str, found: &dyn Fn(&LoadedModel) -> Tensor, model: LlavaModel| {
            // A run is refused if it differs from the config of its weights.
            let changed = tempfile::tempdir().unwrap();
            let mut config = json(&folder.join("config.json"));
            config["vision_feature_layer"] = serde_json::to_value(&model.vision_feature_layer).unwrap();
            config["vision_feature_select_strategy"] = serde_json::to_value(model.vision_feature_select_strategy).unwrap();
            std::fs::write(changed.path().join("config.json"), config.to_string()).unwrap();
            std::fs::copy(folder.join("model.safetensors"), changed.path().join("model.safetensors")).unwrap();
            let loaded = load(&finetune(changed.path(), model), &Mesh::single());
            let off = difference(&tch::no_grad(|| found(&loaded)), &file.read(key, None).unwrap());
            assert!(off <= TOLERANCE, "{}: {key} is off by {off:e}", name(folder));
        };
        let vision = |loaded: &LoadedModel| loaded.whole().unwrap().0.vision_features(&pixels).unwrap();
        let projected = |loaded: &LoadedModel| loaded.whole().unwrap().0.image_features(&pixels).unwrap();
        // As many copies of one hidden state as the model reads: its projector has weights for them.
        let features = model.vision_feature_layer.numbers().len();
        let behind = |layers: usize| LlavaModel {
            vision_feature_layer: vec![layers as i64; features].into(),
            vision_feature_select_strategy: FeatureSelect::Full,
            ..model.clone()
        };
        let first = |loaded: &LoadedModel| vision(loaded).narrow(2, 0, model.vision_config.hidden_size as i64);
        let layers = model.vision_config.num_hidden_layers;
        for layer in 0..=layers {
            check(&format!("vision_hidden.{layer}"), &first, behind(layer));
        }
        let norm = [("post_layernorm", "siglip_vision_model"), ("layernorm", "internvl_vision")]
            .into_iter()
            .find(|(_, family)| {
                model.vision_config.model_type.name() == *family
                    && !(model.vision_config.use_mean_pooling && family.starts_with("internvl"))
            });
        let last = |loaded: &LoadedModel| match norm {
            Some((norm, _)) => {
                let weights = TensorFile::open(&folder.join("model.safetensors")).unwrap();
                let read = |name: &str| weights.read(&format!("vision_tower.{norm}.{name}"), None).unwrap();
                let (weight, bias) = (read("weight"), read("bias"));
                first(loaded).layer_norm(weight.size(), Some(weight), Some(bias), model.vision_config.layer_norm_eps, false)
            }
            None => first(loaded),
        };
        check("vision_last_hidden_state", &last, behind(layers));
        let projector = model.description().projector.unwrap();
        let shuffled = |loaded: &LoadedModel| shuffle(&vision(loaded), projector.shuffle().unwrap() as i64);
        check("proj_in", &shuffled, model.clone());
        check("image_features", &projected, model.clone());
    });
}

/// InternVL's pixel shuffle: merges a square of `factor` x `factor` positions into one, columns first.
fn shuffle(features_bsh: &Tensor, factor: i64) -> Tensor {
    if factor == 1 {
        return features_bsh.shallow_clone();
    }
    let size = features_bsh.size();
    let side = (size[1] as f64).sqrt() as i64;
    let squares = [size[0], side / factor, factor, side / factor, factor, size[2]];
    let positions = [size[0], size[1] / factor / factor, size[2] * factor * factor];
    features_bsh.view(squares).permute([0, 1, 3, 2, 4, 5]).reshape(positions)
}

fn load(finetune: &Finetune, mesh: &Mesh) -> LoadedModel {
    sources(finetune, |sources| {
        LoadedModel::load(finetune, &neva_engine::model::Models::builtin(), sources, mesh, Device::Cpu).unwrap()
    })
}

/// Checks that no tensor of a case is left out of the comparisons.
#[test]
fn every_tensor_of_a_case_is_compared() {
    each_case("golden.json", |folder, model| {
        let hidden = |prefix: &str, layers: usize| (0..=layers).map(|layer| format!("{prefix}.{layer}")).collect::<Vec<_>>();
        let known: Vec<String> = [
            hidden("lm_hidden", model.text_config.num_hidden_layers),
            hidden("vision_hidden", model.vision_config.num_hidden_layers),
            // Read by `forward.rs`, and as inputs.
            [
                "logits_index",
                "logits_at",
                "grad_rows_index",
                "input_ids",
                "labels",
                "attention_mask",
                "pixel_values",
            ]
            .map(String::from)
            .into(),
            ["vision_last_hidden_state", "proj_in", "image_features"].map(String::from).into(),
        ]
        .concat();
        let file = TensorFile::open(&folder.join("golden.safetensors")).unwrap();
        let gradient = |key: &String| key.starts_with("grad.") || key.starts_with("grad_rows.");
        let unread: Vec<_> = file
            .tensors()
            .into_keys()
            .filter(|key| !gradient(key) && !known.contains(key))
            .collect();
        assert_eq!(unread, [""; 0], "{}", name(folder));
    });
}
