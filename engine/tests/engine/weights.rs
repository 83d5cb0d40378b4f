//! Hugging Face folders: every spelling of names, and every kind of damage.

use crate::setting::{copy, no_cache, rewrite, table, tiny, within_limit};
use neva_engine::attention::Segments;
use neva_engine::batch::Batch;
use neva_engine::checkpoint::{Base, Sources, TensorFile, write_tensors};
use neva_engine::comm::Mesh;
use neva_engine::model::Models;
use neva_engine::trainer::{LoadedModel, Microbatch, Trainer};
use neva_engine::{EngineError, Result};
use neva_layout::from_hf_config;
use neva_schemas::{Finetune, LlavaModel, Model, Precision, RestoreConfig, exit_class};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use tch::{Device, Kind, Tensor};

pub(crate) fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/hf/llava_clip_llama")
}

pub(crate) fn config() -> Value {
    serde_json::from_slice(&std::fs::read(fixture().join("config.json")).unwrap()).unwrap()
}

/// Returns a run of the fixture's model that starts from `folder`.
pub(crate) fn finetune(folder: &Path) -> Finetune {
    let mut finetune = tiny();
    finetune.model = Model::Llava(from_hf_config(&config()).unwrap());
    finetune.resume.restore_config = Some(RestoreConfig::weights(folder.display().to_string()));
    finetune
}

pub(crate) fn load(finetune: &Finetune) -> Result<LoadedModel> {
    let (base, cache) = (Base::of(finetune, &no_cache())?, no_cache());
    let sources = Sources {
        checkpoint: None,
        adapter: None,
        base: &base,
        cache: &cache,
    };
    LoadedModel::load(finetune, &Models::builtin(), sources, &Mesh::single(), Device::Cpu)
}

/// Returns one row: an image between words.
fn microbatch(finetune: &Finetune) -> Microbatch {
    let image = finetune.model.as_llava().unwrap().image_seq_length() as i64;
    let mut ids = vec![1i64, 17, 400];
    ids.extend(vec![neva_data::IMAGE_TOKEN_INDEX; image as usize]);
    ids.extend([9, 1200, 33, 4]);
    let len = ids.len() as i64;
    let mut labels = vec![-100i64; ids.len()];
    labels[ids.len() - 4..].copy_from_slice(&[1200, 33, 4, 2]);
    let edge = finetune.model.as_llava().unwrap().vision_config.image_size as i64;
    let pixels = Tensor::arange(3 * edge * edge, (Kind::Float, Device::Cpu))
        .sin()
        .view([1, 3, edge, edge]);
    let batch = Batch {
        input_ids_bs: Tensor::from_slice(&ids).view([1, len]),
        labels_bs: Tensor::from_slice(&labels).view([1, len]),
        segments: Segments::rows(&[ids.len()]),
        pixels: Some(pixels),
        image_positions: Tensor::arange_start(3, 3 + image, (Kind::Int64, Device::Cpu)),
        feature_rows: None,
    };
    Microbatch::of(batch, len as u64)
}

fn loss(folder: &Path) -> f64 {
    let finetune = finetune(folder);
    let loaded = load(&finetune).unwrap();
    Trainer::new(&finetune, loaded, Mesh::single())
        .unwrap()
        .accumulate(&[microbatch(&finetune)])
        .unwrap()
        .loss
        .unwrap()
}

/// Returns a copy of the fixture with changed tensors.
fn rewritten(change: impl FnOnce(&mut Vec<(String, Tensor)>)) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(fixture().join("config.json"), folder.path().join("config.json")).unwrap();
    std::fs::copy(fixture().join("model.safetensors"), folder.path().join("model.safetensors")).unwrap();
    rewrite(&folder.path().join("model.safetensors"), change);
    folder
}

/// Returns the name in hub files, which is that in memory of transformers up to 4.51.
fn layout_a(canonical: &str) -> String {
    match canonical.strip_prefix("model.") {
        Some(name) if name.starts_with("language_model.") => name.replacen("language_model.", "language_model.model.", 1),
        Some(name) if name.starts_with("vision_tower.") => name.replacen("vision_tower.", "vision_tower.vision_model.", 1),
        Some(name) => name.to_owned(),
        None => format!("language_model.{canonical}"),
    }
}

/// Returns the name in memory of transformers 4.52 to 4.57.
fn layout_b(canonical: &str) -> String {
    canonical.replacen("model.vision_tower.", "model.vision_tower.vision_model.", 1)
}

#[test]
fn every_spelling_of_names_is_the_same_model() {
    within_limit(|| {
        let expected = loss(&fixture());
        assert!(expected.is_finite());
        for spell in [layout_a, layout_b, str::to_owned] {
            let folder = rewritten(|tensors| {
                for (name, _) in tensors.iter_mut() {
                    *name = spell(&table(&LlavaModel::default()).canonical_name(name).unwrap());
                }
                let example = tensors[0].0.clone();
                // Buffers that old versions wrote.
                tensors.push((
                    spell("model.vision_tower.embeddings.position_ids"),
                    Tensor::arange(17, (Kind::Int64, Device::Cpu)),
                ));
                tensors.push((
                    spell("model.language_model.layers.0.self_attn.rotary_emb.inv_freq"),
                    Tensor::zeros([8], (Kind::Float, Device::Cpu)),
                ));
                assert!(tensors.iter().any(|(name, _)| *name == example));
            });
            assert_eq!(loss(folder.path()).to_bits(), expected.to_bits(), "{}", spell("lm_head.weight"));
        }
    });
}

/// Splits the only file of a folder in two with an index.
fn split(folder: &Path) -> [String; 2] {
    let parts = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"].map(str::to_owned);
    let single = folder.join("model.safetensors");
    let file = TensorFile::open(&single).unwrap();
    let names: Vec<_> = file.tensors().into_keys().collect();
    let (mut map, half) = (serde_json::Map::new(), names.len() / 2);
    for (part, names) in parts.iter().zip([&names[..half], &names[half..]]) {
        let tensors = names.iter().map(|name| (name.clone(), file.read(name, None).unwrap())).collect();
        map.extend(names.iter().map(|name| (name.clone(), json!(part))));
        write_tensors(&folder.join(part), tensors).unwrap();
    }
    std::fs::write(
        folder.join("model.safetensors.index.json"),
        json!({"metadata": {}, "weight_map": map}).to_string(),
    )
    .unwrap();
    std::fs::remove_file(single).unwrap();
    parts
}

#[test]
fn several_files_with_an_index_are_one_model() {
    within_limit(|| {
        let folder = rewritten(|_| {});
        let parts = split(folder.path());
        assert_eq!(loss(folder.path()).to_bits(), loss(&fixture()).to_bits());

        let index = folder.path().join("model.safetensors.index.json");
        let whole = std::fs::read(&index).unwrap();
        for (text, expect) in [
            ("{}", "has no `weight_map`"),
            ("{\"weight_map\": 3}", "has no `weight_map`"),
            ("{", "index.json"),
            ("{\"weight_map\": {\"a\": \"../x\"}}", "is missing"),
        ] {
            std::fs::write(&index, text).unwrap();
            check_error(folder.path(), &[expect]);
        }
        std::fs::write(&index, whole).unwrap();
        std::fs::remove_file(folder.path().join(&parts[1])).unwrap();
        check_error(folder.path(), &[&parts[1]]);
        std::fs::remove_file(index).unwrap();
        check_error(folder.path(), &["holds neither model.safetensors nor model.safetensors.index.json"]);
    });
}

#[track_caller]
fn check_error(folder: &Path, expect: &[&str]) -> EngineError {
    let error = load(&finetune(folder)).unwrap_err();
    assert_eq!(error.exit_code(), exit_class::INPUT, "{error}");
    let text = error.to_string();
    for part in expect {
        assert!(text.contains(part), "{text}\nlacks: {part}");
    }
    error
}

#[test]
fn all_mismatches_are_listed() {
    within_limit(|| {
        let folder = rewritten(|tensors| {
            tensors.retain(|(name, _)| !name.ends_with("model.norm.weight") && !name.ends_with("projector.linear_2.bias"));
            for (name, tensor) in tensors.iter_mut() {
                if name.ends_with("layers.1.mlp.down_proj.weight") {
                    *tensor = tensor.transpose(0, 1);
                }
            }
            tensors.push(("transformer.wte.weight".into(), Tensor::from(1f32)));
            tensors.push(("language_model.model.layers.7.mlp.up_proj.weight".into(), Tensor::from(1f32)));
            let twice = tensors
                .iter()
                .find(|(name, _)| name.ends_with("lm_head.weight"))
                .unwrap()
                .1
                .shallow_clone();
            tensors.push(("lm_head.weight".into(), twice));
        });
        let error = check_error(
            folder.path(),
            &[
                "`model.language_model.norm.weight` [64] is missing",
                "`model.multi_modal_projector.linear_2.bias` [64] is missing",
                "`language_model.model.layers.1.mlp.down_proj.weight` has shape [160, 64], the model needs [64, 160]",
                "`transformer.wte.weight` is not a tensor of the model",
                "`language_model.model.layers.7.mlp.up_proj.weight` [] is not in the model",
                "is a second tensor for `lm_head.weight`",
            ],
        );
        assert!(
            matches!(&error, EngineError::Weights { problems, .. } if problems.len() == 6),
            "{error}"
        );
    });
}

/// For example, LLaVA-NeXT's row separator.
#[test]
fn tensors_outside_the_model_are_skipped() {
    within_limit(|| {
        let folder = rewritten(|tensors| {
            tensors.push(("image_newline".into(), Tensor::zeros([64], (Kind::Float, Device::Cpu))));
            tensors.push(("model.image_newline".into(), Tensor::zeros([64], (Kind::Float, Device::Cpu))));
        });
        assert_eq!(loss(folder.path()).to_bits(), loss(&fixture()).to_bits());
    });
}

/// Such weights give a loss of NaN; what wrote them has failed before.
#[test]
fn values_that_are_not_finite_are_refused() {
    within_limit(|| {
        let folder = rewritten(|tensors| {
            for (name, tensor) in tensors.iter_mut() {
                if name.ends_with("layers.0.self_attn.q_proj.weight") {
                    *tensor = tensor.to_kind(Kind::BFloat16);
                    let _ = tensor.get(3).get(5).fill_(f64::NAN);
                    let _ = tensor.get(4).get(0).fill_(f64::INFINITY);
                }
            }
        });
        let text = check_error(folder.path(), &["self_attn.q_proj.weight` holds NaN or infinite values: 2 of "]).to_string();
        assert_eq!(
            text.matches("NaN").count(),
            2,
            "the language model's and the vision encoder's:\n{text}"
        );
        // Integers of a quantized model, whose config does not say so.
        let folder = rewritten(|tensors| {
            let (_, tensor) = tensors.iter_mut().find(|(name, _)| name.ends_with("v_proj.weight")).unwrap();
            *tensor = tensor.to_kind(Kind::Int8);
        });
        check_error(folder.path(), &["v_proj.weight` has the kind Int8", "floating-point numbers"]);
        for change in [f64::MAX, f64::MIN_POSITIVE, -0.0] {
            let folder = rewritten(|tensors| {
                let (_, tensor) = &mut tensors[0];
                *tensor = tensor.to_kind(Kind::Double);
                let _ = tensor.view(-1).get(0).fill_(change);
            });
            load(&finetune(folder.path())).unwrap();
        }
    });
}

#[test]
fn the_list_of_mismatches_is_limited() {
    within_limit(|| {
        let folder = rewritten(|tensors| tensors.iter_mut().for_each(|(name, _)| *name = format!("transformer.{name}")));
        let text = check_error(folder.path(), &["and 140 more"]).to_string();
        assert!(text.len() < 4000, "{} characters", text.len());
    });
}

#[test]
fn half_precision_files_load() {
    within_limit(|| {
        let expected = loss(&fixture());
        for kind in [Kind::BFloat16, Kind::Half, Kind::Double] {
            let folder = rewritten(|tensors| tensors.iter_mut().for_each(|(_, tensor)| *tensor = tensor.to_kind(kind)));
            let got = loss(folder.path());
            let off = (got - expected).abs() / expected;
            assert!(
                off < if kind == Kind::Double { 1e-12 } else { 1e-2 },
                "{kind:?}: {got}, expected {expected}"
            );
            let loaded = load(&finetune(folder.path())).unwrap();
            assert!(loaded.parameters.iter().all(|parameter| parameter.tensor.kind() == Kind::Float));
        }
        let mut finetune = finetune(&fixture());
        finetune.trainer.mixed_precision_mut().precision = Precision::Bf16Mixed;
        assert!(
            load(&finetune)
                .unwrap()
                .parameters
                .iter()
                .all(|parameter| parameter.tensor.kind() == Kind::BFloat16)
        );
    });
}

#[test]
fn a_truncated_file_is_reported() {
    within_limit(|| {
        let folder = tempfile::tempdir().unwrap();
        copy(&fixture(), folder.path());
        let path = folder.path().join("model.safetensors");
        let bytes = std::fs::read(&path).unwrap();
        for length in [0, 5, 4000, 9168, bytes.len() / 2, bytes.len() - 1] {
            std::fs::write(&path, &bytes[..length]).unwrap();
            check_error(folder.path(), &["model.safetensors: truncated"]);
        }
    });
}

#[test]
fn a_missing_folder_is_reported() {
    within_limit(|| {
        let mut finetune = finetune(Path::new("no/such/model"));
        let error = load(&finetune).unwrap_err();
        assert_eq!(error.exit_code(), exit_class::INPUT);
        assert!(
            error
                .to_string()
                .contains("finetune.resume.restore_config.path: there is no model in no/such/model"),
            "{error}"
        );
        finetune.resume.restore_config = Some(RestoreConfig::weights("nemo://llava-hf/llava-1.5-7b-hf"));
        let text = load(&finetune).unwrap_err().to_string();
        assert!(text.contains("llava-hf/llava-1.5-7b-hf") && text.contains("config.json"), "{text}");
    });
}
