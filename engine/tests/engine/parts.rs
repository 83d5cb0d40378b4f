//! Language model, vision encoder and projector from separate folders: the alignment of a fresh projector.

use crate::setting::{ONE, export_hf, load, names, no_cache, on_mesh, run_on, small, table, weights, within_limit};
use crate::weights::{config, fixture, load as try_load};
use neva_engine::checkpoint::{Base, CheckpointFolder, TensorFile, write_tensors};
use neva_engine::comm::Mesh;
use neva_engine::model::Models;
use neva_engine::trainer::{Registry, Trainer};
use neva_layout::from_hf_config;
use neva_schemas::{Finetune, LlavaModel, Model, ParallelSizes, RestoreConfig, exit_class};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use tch::{Kind, Tensor};

const LANGUAGE: &str = "model.language_model.";
const VISION: &str = "model.vision_tower.";
const PROJECTOR: &str = "model.multi_modal_projector.";

/// Returns the fixture's tensors by canonical name.
fn fixture_tensors() -> BTreeMap<String, Tensor> {
    let file = TensorFile::open(&fixture().join("model.safetensors")).unwrap();
    let names = file.tensors().into_keys();
    names
        .map(|name| {
            (
                table(&LlavaModel::default()).canonical_name(&name).unwrap(),
                file.read(&name, None).unwrap(),
            )
        })
        .collect()
}

/// Writes the fixture's Llama as `LlamaForCausalLM` saves it, with an embedding of `rows` rows.
fn llama(folder: &Path, rows: i64) {
    let mut tensors = Vec::new();
    for (name, tensor) in fixture_tensors() {
        let cut = |tensor: &Tensor| tensor.narrow(0, 0, rows).contiguous();
        match name.strip_prefix(LANGUAGE) {
            Some("embed_tokens.weight") => tensors.push(("model.embed_tokens.weight".to_owned(), cut(&tensor))),
            Some(rest) => tensors.push((format!("model.{rest}"), tensor)),
            None if name == "lm_head.weight" => tensors.push((name, cut(&tensor))),
            None => {}
        }
    }
    let mut text = config()["text_config"].clone();
    text["vocab_size"] = rows.into();
    write(folder, &text, tensors);
}

/// Writes the fixture's CLIP as `CLIPModel` saves it, with a text model.
fn clip(folder: &Path) {
    let tensors = fixture_tensors().into_iter();
    let mut tensors: Vec<_> = tensors
        .filter_map(|(name, tensor)| Some((format!("vision_model.{}", name.strip_prefix(VISION)?), tensor)))
        .collect();
    let one = || Tensor::ones([1], (Kind::Float, tch::Device::Cpu));
    for name in [
        "text_model.final_layer_norm.weight",
        "visual_projection.weight",
        "text_projection.weight",
        "logit_scale",
    ] {
        tensors.push((name.into(), one()));
    }
    write(
        folder,
        &json!({ "model_type": "clip", "vision_config": config()["vision_config"] }),
        tensors,
    );
    let processor = json!({
        "image_processor_type": "CLIPImageProcessor",
        "size": { "shortest_edge": 28 },
        "crop_size": { "height": 28, "width": 28 },
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    });
    std::fs::write(folder.join("preprocessor_config.json"), processor.to_string()).unwrap();
    std::fs::write(folder.join("tokenizer.json"), "of CLIP's own text").unwrap();
}

fn write(folder: &Path, config: &Value, tensors: Vec<(String, Tensor)>) {
    std::fs::create_dir_all(folder).unwrap();
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    write_tensors(&folder.join("model.safetensors"), tensors).unwrap();
}

/// Returns a run of the fixture's model on fresh weights.
fn fresh() -> Finetune {
    let mut finetune = small();
    finetune.model = Model::Llava(from_hf_config(&config()).unwrap());
    finetune
}

/// Returns an alignment run: a fresh projector, the other parts frozen and from two folders.
fn alignment(language: &Path, vision: &Path) -> Finetune {
    let mut finetune = fresh();
    let model = finetune.model.as_llava_mut().unwrap();
    model.language_model_from_pretrained = Some(language.display().to_string());
    model.vision_model_from_pretrained = Some(vision.display().to_string());
    (model.freeze_language_model, model.freeze_vision_model) = (true, true);
    finetune
}

fn all(finetune: &Finetune, checkpoint: Option<&CheckpointFolder>) -> BTreeMap<String, Tensor> {
    weights(&Trainer::new(finetune, load(finetune, checkpoint, &Mesh::single()), Mesh::single()).unwrap())
}

#[test]
fn of_a_model_are_read_from_separate_folders() {
    within_limit(|| {
        let folder = tempfile::tempdir().unwrap();
        let [language, vision] = ["llama", "clip"].map(|name| folder.path().join(name));
        llama(&language, 2048);
        clip(&vision);
        let (whole, seeded) = (fixture_tensors(), all(&fresh(), None));
        // Only the part is read from a whole LLaVA.
        for (language, vision) in [(&language, &vision), (&fixture(), &fixture()), (&language, &fixture())] {
            let got = all(&alignment(language, vision), None);
            assert_eq!(got.len(), whole.len());
            for (name, weight) in &got {
                let expected = if name.starts_with(PROJECTOR) { &seeded } else { &whole };
                assert!(weight.equal(&expected[name]), "{name}");
            }
            assert!(!got[&format!("{PROJECTOR}linear_1.weight")].equal(&whole[&format!("{PROJECTOR}linear_1.weight")]));
        }
        // The other parts come from the restored model.
        let mut finetune = fresh();
        finetune.model.as_llava_mut().unwrap().vision_projection_from_pretrained = Some(fixture().display().to_string());
        for (name, weight) in all(&finetune, None) {
            let expected = if name.starts_with(PROJECTOR) { &whole } else { &seeded };
            assert!(weight.equal(&expected[&name]), "{name}");
        }
        finetune.model.as_llava_mut().unwrap().vision_projection_from_pretrained = None;
        finetune.model.as_llava_mut().unwrap().vision_model_from_pretrained = Some(vision.display().to_string());
        finetune.resume.restore_config = Some(RestoreConfig::weights(fixture().display().to_string()));
        for (name, weight) in all(&finetune, None) {
            assert!(weight.equal(&whole[&name]), "{name}");
        }
    });
}

/// A Llama has no rows for LLaVA's additional tokens: they become the mean of the others in every layout.
#[test]
fn with_a_smaller_vocabulary_are_filled_with_the_mean_row() {
    within_limit(|| {
        let folder = tempfile::tempdir().unwrap();
        llama(folder.path(), 2000);
        let mut finetune = fresh();
        finetune.model.as_llava_mut().unwrap().language_model_from_pretrained = Some(folder.path().display().to_string());
        let expected: Vec<_> = ["model.language_model.embed_tokens.weight", "lm_head.weight"]
            .map(|name| {
                let own = fixture_tensors()[name].narrow(0, 0, 2000);
                let mean = own.mean_dim([0i64].as_slice(), true, Kind::Float);
                (name, Tensor::cat(&[own, mean.expand([48, -1], false)], 0))
            })
            .into();
        for sizes in [ONE, ParallelSizes { tp: 2, ..ONE }] {
            finetune.trainer.strategy.tensor_model_parallel_size = sizes.tp;
            for got in on_mesh(sizes, |mesh| {
                weights(&Trainer::new(&finetune, load(&finetune, None, &mesh), mesh).unwrap())
            }) {
                for (name, expected) in &expected {
                    assert!(got[*name].equal(expected), "{name} on {sizes:?}");
                }
            }
        }
    });
}

/// Trained parts are resumed, exported, and used as the base of the next stage.
#[test]
fn are_the_base_of_a_checkpoint() {
    within_limit(|| {
        let folder = tempfile::tempdir().unwrap();
        let [language, vision] = ["llama", "clip"].map(|name| folder.path().join(name));
        llama(&language, 2048);
        clip(&vision);
        std::fs::write(language.join("tokenizer.json"), "of the language model").unwrap();
        let mut finetune = alignment(&language, &vision);
        finetune.trainer.max_steps = Some(2);
        let report = run_on(&finetune, &folder.path().join("run"), ONE, &Registry::builtin())
            .remove(0)
            .unwrap();
        let checkpoint = CheckpointFolder::open(&report.checkpoint.unwrap()).unwrap();
        let trained = all(&finetune, Some(&checkpoint));
        for (name, weight) in &trained {
            let same = fixture_tensors()[name].equal(weight);
            assert_eq!(same, !name.starts_with(PROJECTOR), "{name}");
        }

        // The second stage.
        let mut second = fresh();
        second.resume.restore_config = Some(RestoreConfig::weights(checkpoint.path.display().to_string()));
        for (name, weight) in all(&second, None) {
            assert!(weight.equal(&trained[&name]), "{name}");
        }

        let out = folder.path().join("out");
        export_hf(&checkpoint.path, &out, &Models::builtin()).unwrap();
        assert_eq!(
            names(&out),
            [
                "config.json",
                "model.safetensors",
                "preprocessor_config.json",
                "processor_config.json",
                "tokenizer.json"
            ]
        );
        assert_eq!(
            std::fs::read_to_string(out.join("tokenizer.json")).unwrap(),
            "of the language model"
        );
        second.resume.restore_config = Some(RestoreConfig::weights(out.display().to_string()));
        for (name, weight) in all(&second, None) {
            assert!(weight.equal(&trained[&name]), "{name}");
        }

        // Other weights under the same names are another base.
        let base = Base::of(&checkpoint.run.finetune, &no_cache()).unwrap();
        checkpoint.check_base(&base.reference().unwrap(), "finetune.resume").unwrap();
        let mut other = finetune.clone();
        other.model.as_llava_mut().unwrap().language_model_from_pretrained = Some(fixture().display().to_string());
        let other = Base::of(&other, &no_cache()).unwrap().reference().unwrap();
        let error = checkpoint.check_base(&other, "finetune.resume").unwrap_err().to_string();
        assert!(
            error.contains("for the language model") && error.contains("fresh weights of seed 1234 for the rest"),
            "{error}"
        );
    });
}

#[test]
fn that_do_not_fit_are_refused() {
    within_limit(|| {
        let folder = tempfile::tempdir().unwrap();
        let [language, vision, broken] = ["llama", "clip", "broken"].map(|name| folder.path().join(name));
        llama(&language, 2048);
        clip(&vision);
        llama(&broken, 2048);
        crate::setting::rewrite(&broken.join("model.safetensors"), |tensors| {
            tensors.retain(|(name, _)| name != "model.norm.weight");
            tensors.push(("model.extra.weight".into(), Tensor::from(1f32)));
            tensors.push(("transformer.wte.weight".into(), Tensor::from(1f32)));
        });
        let mut deeper = alignment(&language, &vision);
        deeper.model.as_llava_mut().unwrap().text_config.num_hidden_layers = 5;
        let mut fewer_rows = alignment(&language, &vision);
        fewer_rows.model.as_llava_mut().unwrap().text_config.vocab_size = 2047;
        fewer_rows.model.as_llava_mut().unwrap().image_token_index = 2046;
        for (finetune, expected) in [
            (
                alignment(Path::new("no/llama"), &vision),
                vec!["finetune.model.language_model_from_pretrained: there is no model in no/llama"],
            ),
            (
                alignment(&vision, &vision),
                vec![
                    "config.json",
                    "`model_type` is \"clip\", which has no language model of a LLaVA model",
                ],
            ),
            (
                alignment(&language, &language),
                vec!["`model_type` is \"llama\", which has no vision encoder"],
            ),
            (
                deeper,
                vec![
                    "finetune.model.text_config.num_hidden_layers",
                    "--set finetune.model.text_config.num_hidden_layers=2",
                ],
            ),
            (fewer_rows, vec!["finetune.model.text_config.vocab_size", "`vocab_size` is 2047"]),
            (
                alignment(&broken, &vision),
                vec![
                    "`model.language_model.norm.weight` [64] is missing",
                    "`model.extra.weight` [] is not in the model",
                    "`transformer.wte.weight` is not a tensor of a language model",
                ],
            ),
        ] {
            let error = try_load(&finetune).unwrap_err();
            assert_eq!(error.exit_code(), exit_class::INPUT, "{error}");
            for text in expected {
                assert!(error.to_string().contains(text), "{error}\nlacks: {text}");
            }
        }
    });
}

/// OpenGVLab's InternViT has other names and one tensor for query, key and value; SigLIP's text encoder is skipped.
#[test]
fn vision_encoders_are_loaded_from_their_own_folders() {
    within_limit(|| {
        let fixtures = fixture().join("..");
        let folder = tempfile::tempdir().unwrap();
        for case in ["internvl_norm", "siglip_odd"] {
            let config: Value = serde_json::from_slice(&std::fs::read(fixtures.join(case).join("config.json")).unwrap()).unwrap();
            let mut finetune = small();
            finetune.model = Model::Llava(from_hf_config(&config).unwrap());
            finetune.model.as_llava_mut().unwrap().vision_config.use_mean_pooling = true;
            let whole = TensorFile::open(&fixtures.join(case).join("model.safetensors")).unwrap();
            let vision: BTreeMap<_, _> = whole
                .tensors()
                .into_keys()
                .filter_map(|name| Some((name.strip_prefix("vision_tower.")?.to_owned(), whole.read(&name, None).unwrap())))
                .filter(|(name, _)| !name.starts_with("layernorm."))
                .collect();
            let out = folder.path().join(case);
            match case {
                "internvl_norm" => native_intern_vit(&out, &config["vision_config"], &vision),
                _ => siglip(&out, &config["vision_config"], &vision),
            }
            let fresh = all(&finetune, None);
            finetune.model.as_llava_mut().unwrap().vision_model_from_pretrained = Some(out.display().to_string());
            for sizes in [ONE, ParallelSizes { tp: 2, ..ONE }] {
                let got = on_mesh(sizes, |mesh| {
                    weights(&Trainer::new(&finetune, load(&finetune, None, &mesh), mesh.clone()).unwrap())
                });
                for (name, weight) in got.iter().flatten() {
                    match name.strip_prefix(VISION) {
                        Some(name) => assert!(weight.equal(&vision[name]), "{case}: {name}"),
                        None if sizes == ONE => assert!(weight.equal(&fresh[name]), "{case}: {name}"),
                        None => {}
                    }
                }
            }
        }
    });
}

/// Writes a folder like that of OpenGVLab's `InternVisionModel`.
fn native_intern_vit(folder: &Path, config: &Value, vision: &BTreeMap<String, Tensor>) {
    let native = |name: &str| {
        name.replace("encoder.layer.", "encoder.layers.")
            .replace("cls_token", "class_embedding")
            .replace("position_embeddings", "position_embedding")
            .replace("patch_embeddings.projection", "patch_embedding")
            .replace("lambda_", "ls")
            .replace("layernorm_before", "norm1")
            .replace("layernorm_after", "norm2")
            .replace("attention.projection_layer", "attn.proj")
            .replace("attention.", "attn.")
    };
    let mut tensors = Vec::new();
    for (name, tensor) in vision {
        if name.contains(".k_proj.") || name.contains(".v_proj.") {
            continue;
        }
        if name.contains(".q_proj.") {
            let parts = ["q_proj", "k_proj", "v_proj"].map(|part| &vision[&name.replace("q_proj", part)]);
            tensors.push((native(name).replace("q_proj", "qkv"), Tensor::cat(&parts, 0)));
        } else {
            tensors.push((native(name), tensor.shallow_clone()));
        }
    }
    let mut native = config.clone();
    native["model_type"] = "intern_vit_6b".into();
    native["image_size"] = 56.into();
    native["patch_size"] = 14.into();
    for (ours, theirs) in [("use_qk_norm", "qk_normalization"), ("attention_bias", "qkv_bias")] {
        native[theirs] = native.as_object_mut().unwrap().remove(ours).unwrap();
    }
    native.as_object_mut().unwrap().remove("use_mean_pooling");
    write(folder, &native, tensors);
}

/// Writes a folder like that of `SiglipModel`, with a text encoder.
fn siglip(folder: &Path, config: &Value, vision: &BTreeMap<String, Tensor>) {
    let mut tensors: Vec<_> = vision
        .iter()
        .map(|(name, tensor)| (format!("vision_model.{name}"), tensor.shallow_clone()))
        .collect();
    for name in ["text_model.head.weight", "logit_scale", "logit_bias"] {
        tensors.push((name.into(), Tensor::ones([1], (Kind::Float, tch::Device::Cpu))));
    }
    write(folder, &json!({ "model_type": "siglip", "vision_config": config }), tensors);
}
