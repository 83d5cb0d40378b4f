//! Language models alone: training on text, generation without an image, export.

use crate::setting::{ONE, export_hf, load, no_cache, preload, run_on, small, weights, within_limit};
use neva_data::Tokenizer;
use neva_engine::EngineError;
use neva_engine::checkpoint::CheckpointFolder;
use neva_engine::comm::Mesh;
use neva_engine::generate::generate;
use neva_engine::model::Models;
use neva_engine::trainer::{Registry, Trainer};
use neva_schemas::{Finetune, GenerateRequest, GenerateSource, LanguageModel, Model, ParallelSizes, RestoreConfig, TextConfig};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Returns a small language model alone for each target, with settings of its family.
fn models() -> Vec<Model> {
    let config = TextConfig {
        model_type: None,
        vocab_size: 2048,
        ..small().model.as_llava().unwrap().text_config.clone()
    };
    let alone = |config: &TextConfig| LanguageModel {
        config: config.clone(),
        ..LanguageModel::default()
    };
    let windowed = TextConfig {
        sliding_window: Some(9),
        ..config.clone()
    };
    vec![
        Model::Gpt(alone(&config)),
        Model::Llama(alone(&config)),
        Model::Mistral(alone(&windowed)),
        Model::Nemotron(alone(&config)),
        Model::Qwen2(alone(&TextConfig {
            use_sliding_window: Some(true),
            max_window_layers: Some(1),
            tie_word_embeddings: true,
            ..windowed
        })),
    ]
}

/// Returns a run on `records`, which are written to `folder`.
fn run_of(folder: &Path, model: Model, records: &Value) -> Finetune {
    let file = folder.join("records.json");
    std::fs::write(&file, records.to_string()).unwrap();
    let mut finetune = small();
    preload(&mut finetune, &file).seq_length = 96;
    finetune.model = model;
    finetune.trainer.max_steps = Some(2);
    finetune
}

fn text() -> Value {
    let record = |index: usize| {
        let (question, answer) = (format!("What is {index}?"), format!("It is {index}."));
        json!({"conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]})
    };
    (0..16).map(record).collect()
}

fn trained(folder: &Path, finetune: &Finetune, sizes: ParallelSizes) -> Vec<neva_engine::Result<PathBuf>> {
    let reports = run_on(finetune, &folder.join("run"), sizes, &Registry::builtin());
    reports.into_iter().map(|report| Ok(report?.checkpoint.unwrap())).collect()
}

fn request(checkpoint: &Path, images: Vec<PathBuf>) -> GenerateRequest {
    GenerateRequest {
        source: GenerateSource::Checkpoint {
            path: checkpoint.to_owned(),
            base: Vec::new(),
        },
        images,
        prompt: "What is 3?".into(),
        max_new_tokens: 4,
    }
}

#[test]
fn are_trained_asked_and_exported() {
    for model in models() {
        within_limit(move || {
            let target = model.target();
            let folder = tempfile::tempdir().unwrap();
            let finetune = run_of(folder.path(), model.clone(), &text());
            let sizes = ParallelSizes { tp: 2, pp: 2, ..ONE };
            let checkpoint = trained(folder.path(), &finetune, sizes).remove(0).unwrap();
            let answer = generate(&request(&checkpoint, Vec::new()), &Models::builtin(), &no_cache()).unwrap();
            let tokens = Tokenizer::builtin("mistral_2k").unwrap();
            assert!(answer.len() < 200 && tokens.vocab_size() == 2048, "{target}: {answer}");
            let image = generate(&request(&checkpoint, vec!["cat.png".into()]), &Models::builtin(), &no_cache());
            assert!(image.unwrap_err().to_string().contains("has no vision encoder"), "{target}");

            let checkpoint = CheckpointFolder::open(&checkpoint).unwrap();
            let all = |loaded, finetune: &Finetune| weights(&Trainer::new(finetune, loaded, Mesh::single()).unwrap());
            let expected = all(load(&finetune, Some(&checkpoint), &Mesh::single()), &finetune);
            let out = folder.path().join("out");
            export_hf(&checkpoint.path, &out, &Models::builtin()).unwrap();
            let mut restored = finetune.clone();
            restored.resume.restore_config = Some(RestoreConfig::weights(out.display().to_string()));
            let got = all(load(&restored, None, &Mesh::single()), &restored);
            assert_eq!(got.len(), expected.len(), "{target}");
            for (name, weight) in &expected {
                assert!(name.starts_with("model.") || name.starts_with("lm_head."), "{target}: {name}");
                assert!(got[name].equal(weight), "{target}: {name}");
            }
        });
    }
}

#[test]
fn refuse_records_with_images() {
    within_limit(|| {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("cat.png"), "").unwrap();
        let records = json!([{"image": "cat.png", "conversations": [
            {"from": "human", "value": "<image>?"}, {"from": "gpt", "value": "A cat."}]}]);
        let finetune = run_of(folder.path(), models().remove(1), &records);
        let error = trained(folder.path(), &finetune, ONE).remove(0).unwrap_err();
        assert!(error.to_string().contains("the model has no vision encoder"), "{error}");
    });
}

/// A folder of a model with images is not read as a language model.
#[test]
fn refuse_folders_of_other_models() {
    within_limit(|| {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/hf");
        let folder = tempfile::tempdir().unwrap();
        let mut finetune = run_of(folder.path(), models().remove(1), &text());
        finetune.resume.restore_config = Some(RestoreConfig::weights(fixtures.join("llava_clip_llama").display().to_string()));
        let error = trained(folder.path(), &finetune, ONE).remove(0).unwrap_err();
        let EngineError::Run(problems) = &error else { panic!("{error}") };
        assert!(problems[0].message.contains("the run trains llm.LlamaModel"), "{error}");
    });
}
