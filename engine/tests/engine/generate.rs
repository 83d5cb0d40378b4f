//! Answers of models in Hugging Face's format, of adapters on them, and of runs whose base has moved.

use crate::export::{exported, trained, trained_for};
use crate::setting::{ONE, export_hf, lora, no_cache, preload, small, within_limit};
use neva_engine::checkpoint::CheckpointFolder;
use neva_engine::export::ExportFormat;
use neva_engine::generate::generate;
use neva_engine::model::Models;
use neva_schemas::{Finetune, GenerateRequest, GenerateSource, Precision, RestoreConfig};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

/// Steps after which the model answers with words.
const ENOUGH: u64 = 40;

fn photos() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/photos")
}

/// Returns a run on photographs.
fn run() -> Finetune {
    let mut finetune = small();
    preload(&mut finetune, &photos().join("photos.json"));
    finetune
}

/// Returns a run of adapters on the model in `base`.
fn adapted(base: &Path) -> Finetune {
    let mut finetune = run();
    lora(&mut finetune);
    finetune.model.as_llava_mut().unwrap().freeze_vision_model = true;
    finetune.resume.restore_config = Some(RestoreConfig::weights(base.display().to_string()));
    finetune
}

fn ask(source: GenerateSource, images: &[&str]) -> neva_engine::Result<String> {
    let request = GenerateRequest {
        source,
        images: images.iter().map(|image| photos().join(image)).collect(),
        prompt: "What is in the picture?".into(),
        max_new_tokens: 6,
    };
    generate(&request, &Models::builtin(), &no_cache())
}

fn of(checkpoint: &CheckpointFolder, base: &[&Path]) -> GenerateSource {
    GenerateSource::Checkpoint {
        path: checkpoint.path.clone(),
        base: base.iter().map(|path| (*path).to_owned()).collect(),
    }
}

fn model(folder: &Path) -> GenerateSource {
    GenerateSource::Model {
        address: folder.display().to_string(),
        adapter: None,
        conv_template: None,
        precision: None,
    }
}

/// Changes a JSON file.
fn edit(path: &Path, change: impl FnOnce(&mut Value)) {
    let mut content = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    change(&mut content);
    fs::write(path, content.to_string()).unwrap();
}

#[test]
fn an_export_answers_as_its_run() {
    within_limit(|| {
        let folder = tempfile::tempdir().unwrap();
        let checkpoint = trained_for(ENOUGH, folder.path(), &run(), ONE);
        let out = folder.path().join("out");
        export_hf(&checkpoint.path, &out, &Models::builtin()).unwrap();
        for images in [&["chelsea.jpg"][..], &["chelsea.jpg", "rocket.jpg"], &[]] {
            let own = ask(of(&checkpoint, &[]), images).unwrap();
            assert!(!own.is_empty());
            assert_eq!(ask(model(&out), images).unwrap(), own, "{images:?}");
        }
        // Another template makes another prompt.
        let GenerateSource::Model { address, .. } = model(&out) else {
            unreachable!()
        };
        let llama = GenerateSource::Model {
            address,
            adapter: None,
            conv_template: Some("llama_2".into()),
            precision: Some(Precision::Fp32),
        };
        ask(llama, &["chelsea.jpg"]).unwrap();
    });
}

#[test]
fn any_end_token_of_the_generation_config_ends_an_answer() {
    within_limit(|| {
        let folder = tempfile::tempdir().unwrap();
        let checkpoint = trained_for(ENOUGH, folder.path(), &run(), ONE);
        let out = folder.path().join("out");
        export_hf(&checkpoint.path, &out, &Models::builtin()).unwrap();
        let answer = ask(model(&out), &["chelsea.jpg"]).unwrap();
        assert!(!answer.is_empty());
        let all: Vec<u64> = (0..2048).collect();
        edit(&out.join("generation_config.json"), |config| config["eos_token_id"] = json!(all));
        let shorter = ask(model(&out), &["chelsea.jpg"]).unwrap();
        assert!(
            shorter.len() < answer.len() && answer.starts_with(&shorter),
            "{answer:?}, {shorter:?}"
        );
        // Without its end tokens an answer would end elsewhere.
        fs::write(out.join("generation_config.json"), "{\"eos_token_id\":").unwrap();
        let error = ask(model(&out), &["chelsea.jpg"]).unwrap_err().to_string();
        assert!(error.contains("generation_config.json") && error.contains("not JSON"), "{error}");
    });
}

#[test]
fn an_adapter_answers_on_its_base_as_merged() {
    within_limit(|| {
        let folder = tempfile::tempdir().unwrap();
        let base = folder.path().join("base");
        let first = trained(&folder.path().join("first"), &run(), ONE);
        export_hf(&first.path, &base, &Models::builtin()).unwrap();
        let checkpoint = trained(&folder.path().join("second"), &adapted(&base), ONE);
        let own = ask(of(&checkpoint, &[]), &["chelsea.jpg"]).unwrap();
        for names in ["newer", "original"] {
            let adapter = folder.path().join(names);
            exported(&checkpoint.path, &adapter, ExportFormat::HfPeft, |request| {
                request.names = Some(names.parse().unwrap());
            })
            .unwrap();
            let source = GenerateSource::Model {
                address: base.display().to_string(),
                adapter: Some(adapter),
                conv_template: None,
                precision: None,
            };
            assert_eq!(ask(source, &["chelsea.jpg"]).unwrap(), own);
        }
    });
}

#[test]
fn a_run_answers_once_its_base_is_named_again() {
    within_limit(|| {
        let folder = tempfile::tempdir().unwrap();
        let [base, moved, other] = ["base", "moved", "other"].map(|name| folder.path().join(name));
        let first = trained(&folder.path().join("first"), &run(), ONE);
        export_hf(&first.path, &base, &Models::builtin()).unwrap();
        let checkpoint = trained(&folder.path().join("second"), &adapted(&base), ONE);
        export_hf(&checkpoint.path, &other, &Models::builtin()).unwrap();
        let own = ask(of(&checkpoint, &[]), &["chelsea.jpg"]).unwrap();
        fs::rename(&base, &moved).unwrap();
        let error = ask(of(&checkpoint, &[]), &["chelsea.jpg"]).unwrap_err();
        assert!(error.to_string().contains("--base"), "{error}");
        assert_eq!(ask(of(&checkpoint, &[&moved]), &["chelsea.jpg"]).unwrap(), own);
        let error = ask(of(&checkpoint, &[&other]), &["chelsea.jpg"]).unwrap_err();
        assert!(error.to_string().contains("--base"), "{error}");
    });
}

#[test]
fn folders_that_cannot_answer_are_refused() {
    within_limit(|| {
        let folder = tempfile::tempdir().unwrap();
        let checkpoint = trained(folder.path(), &run(), ONE);
        let out = folder.path().join("out");
        let fresh = || {
            let _ = fs::remove_dir_all(&out);
            export_hf(&checkpoint.path, &out, &Models::builtin()).unwrap();
            out.clone()
        };
        let file = folder.path().join("model.gguf");
        fs::write(&file, "GGUF").unwrap();
        let refusals: Vec<(PathBuf, &str)> = vec![
            (folder.path().join("nowhere"), "there is no model in"),
            (file, "neva-run import"),
            (folder.path().to_owned(), "has no config.json"),
            (checkpoint.path.clone(), "is a checkpoint of this program"),
        ];
        for (path, expected) in refusals {
            let error = ask(model(&path), &[]).unwrap_err().to_string();
            assert!(
                error.starts_with("--model: ") && error.contains(expected),
                "{}: {error}",
                path.display()
            );
        }
        let without: [(&[&str], &str); 2] = [
            (&["tokenizer.json"], "has no tokenizer"),
            (&["chat_template.jinja", "chat_template.json"], "--conv-template v1"),
        ];
        for (files, expected) in without {
            let out = fresh();
            for file in files {
                fs::remove_file(out.join(file)).unwrap();
            }
            edit(&out.join("tokenizer_config.json"), |config| {
                config.as_object_mut().unwrap().remove("chat_template");
            });
            let error = ask(model(&out), &[]).unwrap_err().to_string();
            assert!(error.contains(expected), "{files:?}: {error}");
        }
        let out = fresh();
        let vision = json!({"model_type": "clip_vision_model"});
        fs::write(out.join("config.json"), vision.to_string()).unwrap();
        let error = ask(model(&out), &[]).unwrap_err().to_string();
        assert!(error.contains("a vision encoder alone"), "{error}");
    });
}

#[test]
fn adapters_that_cannot_be_added_are_refused() {
    within_limit(|| {
        let folder = tempfile::tempdir().unwrap();
        let checkpoint = trained(folder.path(), &run(), ONE);
        let out = folder.path().join("out");
        export_hf(&checkpoint.path, &out, &Models::builtin()).unwrap();
        for (adapter, expected) in [
            (folder.path().join("nowhere"), "has no adapter_config.json"),
            (checkpoint.path.clone(), "--base DIR"),
        ] {
            let source = GenerateSource::Model {
                address: out.display().to_string(),
                adapter: Some(adapter),
                conv_template: None,
                precision: None,
            };
            let error = ask(source, &[]).unwrap_err().to_string();
            assert!(error.starts_with("--adapter: ") && error.contains(expected), "{error}");
        }
    });
}
