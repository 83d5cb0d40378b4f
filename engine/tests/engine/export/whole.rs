//! Whole models in the layout of transformers.

use super::{assert_extends, exported, fixture, json_of, tensors, trained};
use crate::setting::{ONE, adapters, load, lora, names, small, table, weights, within_limit};
use neva_engine::checkpoint::TensorFile;
use neva_engine::comm::Mesh;
use neva_engine::export::ExportFormat;
use neva_engine::trainer::{LoadedModel, Trainer};
use neva_layout::from_hf_config;
use neva_schemas::{Finetune, LlavaModel, Model, ParallelSizes, RestoreConfig, VisionPlacement};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use tch::Tensor;

const TP2_PP2: ParallelSizes = ParallelSizes { tp: 2, pp: 2, ..ONE };

const BASE: &str = "llava_clip_llama";

/// Returns the weights of a run that starts from a folder.
fn restored(finetune: &Finetune, folder: &Path) -> BTreeMap<String, Tensor> {
    let mut finetune = finetune.clone();
    finetune.resume.restore_config = Some(RestoreConfig::weights(folder.display().to_string()));
    all(load(&finetune, None, &Mesh::single()), &finetune)
}

fn all(model: LoadedModel, finetune: &Finetune) -> BTreeMap<String, Tensor> {
    weights(&Trainer::new(finetune, model, Mesh::single()).unwrap())
}

#[test]
fn are_the_same_weights() {
    within_limit(|| {
        let folder = tempfile::tempdir().unwrap();
        let mut finetune = small();
        finetune.model.as_llava_mut().unwrap().freeze_vision_model = true;
        let checkpoint = trained(folder.path(), &finetune, TP2_PP2);
        let expected = all(load(&finetune, Some(&checkpoint), &Mesh::single()), &finetune);
        for (name, shard_bytes) in [("whole", 5_000_000_000), ("shards", 100_000)] {
            let out = folder.path().join(name);
            exported(&checkpoint.path, &out, ExportFormat::Hf, |request| {
                request.max_shard_size = shard_bytes
            })
            .unwrap();
            let got = restored(&finetune, &out);
            assert_eq!(got.len(), expected.len());
            for (name, weight) in &expected {
                assert!(got[name].equal(weight), "`{name}`");
            }
        }
        let processors = ["preprocessor_config.json", "processor_config.json"];
        assert_eq!(
            names(&folder.path().join("whole")),
            ["config.json", "model.safetensors", processors[0], processors[1]]
        );
        let index = folder.path().join("shards/model.safetensors.index.json");
        let index: Value = serde_json::from_slice(&std::fs::read(index).unwrap()).unwrap();
        let map = index["weight_map"].as_object().unwrap();
        assert_eq!(map.len(), expected.len());
        let first = "model-00001-of-";
        assert!(
            map["vision_tower.vision_model.embeddings.class_embedding"]
                .as_str()
                .unwrap()
                .starts_with(first)
        );
        assert!(map.contains_key("language_model.model.layers.1.mlp.up_proj.weight") && map.contains_key("language_model.lm_head.weight"));
        // Every file is within the limit, except for single tensors that are larger.
        for file in names(&folder.path().join("shards"))
            .iter()
            .filter(|name| name.ends_with(".safetensors"))
        {
            let tensors = TensorFile::open(&folder.path().join("shards").join(file)).unwrap().tensors();
            let bytes: usize = tensors.values().map(|shape| 4 * shape.iter().product::<usize>()).sum();
            assert!(bytes <= 100_000 || tensors.len() == 1, "{file}: {bytes} bytes");
        }
    });
}

#[test]
fn of_a_split_vision_encoder_are_whole() {
    within_limit(|| {
        let folder = tempfile::tempdir().unwrap();
        let mut finetune = small();
        adapters(&mut finetune, &["q_proj", "fc2", "linear_1"]);
        finetune.trainer.strategy.vision_placement = VisionPlacement::Cut;
        let checkpoint = trained(folder.path(), &finetune, ParallelSizes { tp: 2, ..ONE });
        let out = folder.path().join("out");
        exported(&checkpoint.path, &out, ExportFormat::Hf, |_| {}).unwrap();
        let trained = all(load(&finetune, Some(&checkpoint), &Mesh::single()), &finetune);
        finetune.peft = None;
        finetune.trainer.strategy.vision_placement = VisionPlacement::Shared;
        let got = restored(&finetune, &out);
        for (name, whole) in &got {
            let linear = name.trim_end_matches(".weight");
            let [a, b] = ["lora_A.weight", "lora_B.weight"].map(|end| trained.get(&format!("{linear}.{end}")));
            let expected = match a.zip(b) {
                Some((a, b)) => &trained[name] + b.matmul(a) * 2.0,
                None => trained[name].shallow_clone(),
            };
            assert!(whole.equal(&expected), "`{name}`");
        }
        let fc2 = "model.vision_tower.encoder.layers.0.mlp.fc2";
        assert!(
            !got[&format!("{fc2}.weight")].equal(&trained[&format!("{fc2}.weight")]),
            "the adapter was trained"
        );
    });
}

#[test]
fn have_adapters_merged() {
    within_limit(|| {
        let folder = tempfile::tempdir().unwrap();
        let mut finetune = small();
        lora(&mut finetune);
        let checkpoint = trained(folder.path(), &finetune, TP2_PP2);
        let out = folder.path().join("out");
        exported(&checkpoint.path, &out, ExportFormat::Hf, |_| {}).unwrap();
        let adapted = all(load(&finetune, Some(&checkpoint), &Mesh::single()), &finetune);
        let mut plain = finetune.clone();
        plain.peft = None;
        let got = restored(&plain, &out);
        let linear = "model.language_model.layers.1.mlp.down_proj";
        let [weight, a, b] = ["weight", "lora_A.weight", "lora_B.weight"].map(|end| &adapted[&format!("{linear}.{end}")]);
        let merged = weight + b.matmul(a) * 2.0;
        assert!(!merged.equal(weight), "the adapter was trained");
        assert!(got[&format!("{linear}.weight")].equal(&merged));
        assert!(got.keys().all(|name| !name.contains("lora")));
    });
}

/// Untrained weights and the configuration come from the base.
#[test]
fn take_untrained_weights_from_the_base() {
    within_limit(|| {
        let folder = tempfile::tempdir().unwrap();
        let mut finetune = crate::weights::finetune(&fixture(BASE));
        let model = finetune.model.as_llava_mut().unwrap();
        (model.freeze_language_model, model.freeze_vision_model) = (true, true);
        let checkpoint = trained(folder.path(), &finetune, ONE);
        let out = folder.path().join("out");
        exported(&checkpoint.path, &out, ExportFormat::Hf, |_| {}).unwrap();
        let by_name = |path: &Path| -> BTreeMap<String, Tensor> {
            let canonical = |name: &String| table(&LlavaModel::default()).canonical_name(name).unwrap();
            tensors(path).into_iter().map(|(name, tensor)| (canonical(&name), tensor)).collect()
        };
        let (base, got) = (by_name(&fixture(BASE)), by_name(&out));
        assert_eq!(base.keys().collect::<Vec<_>>(), got.keys().collect::<Vec<_>>());
        for (name, tensor) in &base {
            assert_eq!(got[name].equal(tensor), !name.contains("projector"), "`{name}`");
        }
        assert_extends(&json_of(&out, "config.json"), &json_of(&fixture(BASE), "config.json"));
    });
}

#[test]
fn keep_the_configuration() {
    let mut model = small().model.as_llava().unwrap().clone();
    model.text_config.tie_word_embeddings = true;
    model.text_config.head_dim = Some(model.text_config.head_dim());
    let read = from_hf_config(&table(&model).write_config()).unwrap();
    assert_eq!(Model::Llava(read).explicit(), Model::Llava(model).explicit());
}
