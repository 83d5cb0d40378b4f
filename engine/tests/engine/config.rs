//! `config.json` beside the weights: both spellings, and differences from the run.

use crate::setting::within_limit;
use crate::weights::{config, finetune, load};
use neva_engine::EngineError;
use neva_layout::from_hf_config;
use neva_schemas::{Finetune, exit_class};
use serde_json::{Value, json};
use std::path::Path;

/// Creates a folder with the fixture's weights and another `config.json`.
fn folder(config: &Value) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/hf/llava_clip_llama");
    std::fs::copy(fixture.join("model.safetensors"), folder.path().join("model.safetensors")).unwrap();
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    folder
}

#[test]
fn both_spellings_are_equal() {
    let new = config();
    let mut old = new.clone();
    let text = old["text_config"].as_object_mut().unwrap();
    let rope = text.shift_remove("rope_parameters").unwrap();
    text.insert("rope_theta".into(), rope["rope_theta"].clone());
    text.insert("rope_scaling".into(), Value::Null);
    let mut newest = new.clone();
    let index = newest.as_object_mut().unwrap().shift_remove("image_token_index").unwrap();
    newest["image_token_id"] = index;
    let expected = from_hf_config(&new).unwrap();
    assert_eq!((expected.text_config.rope_theta, expected.image_token_index), (10000.0, 2046));
    assert_eq!(from_hf_config(&old).unwrap(), expected);
    assert_eq!(from_hf_config(&newest).unwrap(), expected);
    within_limit(move || {
        for config in [old, newest] {
            let folder = folder(&config);
            load(&finetune(folder.path())).unwrap();
        }
    });
}

fn check(change: impl FnOnce(&mut Finetune), expect: &[&str]) {
    let folder = folder(&config());
    let mut finetune = finetune(folder.path());
    change(&mut finetune);
    let error = load(&finetune).unwrap_err();
    assert_eq!(error.exit_code(), exit_class::INPUT);
    let EngineError::Run(problems) = &error else { panic!("{error}") };
    assert_eq!(problems.len(), expect.len(), "{error}");
    for (problem, expect) in problems.iter().zip(expect) {
        assert_eq!(problem.help.as_deref(), Some(*expect), "{problem}");
        assert!(problem.message.contains("config.json"), "{problem}");
    }
}

#[test]
fn every_difference_has_a_help_text() {
    within_limit(|| {
        check(
            |finetune| {
                let model = finetune.model.as_llava_mut().unwrap();
                model.text_config.hidden_size = 128;
                model.text_config.rope_theta = 1e6;
                model.text_config.tie_word_embeddings = true;
                model.vision_config.patch_size = 28;
                model.vision_feature_layer = (-1).into();
            },
            &[
                "--set finetune.model.text_config.hidden_size=64",
                "--set finetune.model.text_config.rope_theta=10000.0",
                "--set finetune.model.text_config.tie_word_embeddings=false",
                "--set finetune.model.vision_config.patch_size=14",
                "--set finetune.model.vision_feature_layer=-2",
            ],
        );
        check(
            |finetune| finetune.model.as_llava_mut().unwrap().vision_feature_select_strategy = neva_schemas::FeatureSelect::Full,
            &["--set finetune.model.vision_feature_select_strategy=\"default\""],
        );
    });
}

#[test]
fn settings_without_effect_may_differ() {
    within_limit(|| {
        let folder = folder(&config());
        let mut finetune = finetune(folder.path());
        let model = finetune.model.as_llava_mut().unwrap();
        (
            model.freeze_vision_model,
            model.text_config.max_position_embeddings,
            model.text_config.initializer_range,
            model.image_token_index,
        ) = (true, 77, 0.5, 32000);
        model.text_config.head_dim = None;
        load(&finetune).unwrap();
    });
}

#[test]
fn an_invalid_config_is_reported() {
    within_limit(|| {
        let finetune_of = |text: &str| {
            let folder = folder(&config());
            std::fs::write(folder.path().join("config.json"), text).unwrap();
            load(&finetune(folder.path())).unwrap_err()
        };
        for (text, expect) in [
            ("", "config.json"),
            ("{", "config.json"),
            ("[]", "not a JSON object"),
            ("{\"model_type\": \"qwen2_vl\"}", "qwen2_vl"),
        ] {
            let error = finetune_of(text);
            assert_eq!(error.exit_code(), exit_class::INPUT, "{error}");
            assert!(
                error.to_string().contains("config.json") && error.to_string().contains(expect),
                "{error}"
            );
        }
        let folder = folder(&json!({}));
        std::fs::remove_file(folder.path().join("config.json")).unwrap();
        let error = load(&finetune(folder.path())).unwrap_err();
        assert_eq!(error.exit_code(), exit_class::INPUT, "{error}");
    });
}
