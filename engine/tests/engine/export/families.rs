//! Adapters of every kind of model in PEFT's format: over its base, an adapter is the merged model.

use super::adapters::merged;
use super::{exported, fixture, json_of, tensors, trained, trained_for};
use crate::setting::{ONE, adapters, close_tensors, preload, small, tiny, within_limit};
use neva_engine::export::{ExportFormat, NameLayout};
use neva_layout::Families;
use neva_schemas::{Finetune, LanguageModel, Model, RestoreConfig, TextConfig};
use serde_json::json;
use std::path::{Path, PathBuf};

/// A model with adapters.
struct Case {
    name: &'static str,
    targets: &'static [&'static str],
    /// What PEFT saves as a whole.
    saved: &'static [&'static str],
    /// Names of `target_modules`.
    adapted: &'static str,
    base: fn(&Path) -> (PathBuf, Finetune),
}

const CASES: &[Case] = &[
    Case {
        name: "SigLIP",
        targets: &["*.language_model.*.linear_qkv", "*.language_model.*.down_proj"],
        saved: &["multi_modal_projector"],
        adapted: "language_model",
        base: |_| of_fixture("llava_siglip_llama"),
    },
    Case {
        name: "InternVL",
        targets: &["*.language_model.*.linear_qkv", "*.language_model.*.linear_fc1"],
        saved: &["multi_modal_projector"],
        adapted: "language_model",
        base: |_| of_fixture("internvl_qwen2"),
    },
    Case {
        name: "a language model alone",
        targets: &["linear_qkv", "down_proj"],
        saved: &[],
        adapted: r"model\.layers",
        base: language_model,
    },
];

/// Returns a folder that transformers wrote, and a run that starts from it and trains the projector.
fn of_fixture(name: &str) -> (PathBuf, Finetune) {
    let folder = fixture(name);
    let mut finetune = tiny();
    finetune.model = Families::builtin().read_config(&json_of(&folder, "config.json")).unwrap();
    let model = finetune.model.as_llava_mut().unwrap();
    model.freeze_vision_model = true;
    (folder, finetune)
}

/// Trains a small Qwen2 on text. Returns its export, and a run on the same text.
fn language_model(folder: &Path) -> (PathBuf, Finetune) {
    let records = folder.join("records.json");
    let turn = |from: &str, value: String| json!({ "from": from, "value": value });
    let record =
        |index: usize| json!({"conversations": [turn("human", format!("What is {index}?")), turn("gpt", format!("It is {index}."))]});
    std::fs::write(&records, (0..8).map(record).collect::<serde_json::Value>().to_string()).unwrap();
    let mut finetune = small();
    preload(&mut finetune, &records).seq_length = 96;
    let text = finetune.model.as_llava().unwrap().text_config.clone();
    finetune.model = Model::Qwen2(LanguageModel {
        config: TextConfig { model_type: None, ..text },
        ..LanguageModel::default()
    });
    let checkpoint = trained_for(1, &folder.join("pretraining"), &finetune, ONE);
    let base = folder.join("base");
    exported(&checkpoint.path, &base, ExportFormat::Hf, |_| {}).unwrap();
    (base, finetune)
}

#[test]
fn have_adapters_that_peft_reads() {
    within_limit(|| {
        for case in CASES {
            let folder = tempfile::tempdir().unwrap();
            let below = |name: &str| folder.path().join(name);
            let (base, mut finetune) = (case.base)(folder.path());
            adapters(&mut finetune, case.targets);
            finetune.resume.restore_config = Some(RestoreConfig::weights(base.display().to_string()));
            let checkpoint = trained(&below("adapted"), &finetune, ONE);
            exported(&checkpoint.path, &below("hf"), ExportFormat::Hf, |_| {}).unwrap();
            let (whole, plain) = (tensors(&below("hf")), tensors(&base));
            let changed = |name: &&String| plain.get(*name).is_some_and(|plain| !plain.equal(&whole[*name]));
            assert!(whole.keys().any(|name| changed(&name)), "{}: nothing was trained", case.name);
            for names in [NameLayout::Original, NameLayout::Newer] {
                let peft = below(names.word());
                let written = exported(&checkpoint.path, &peft, ExportFormat::HfPeft, |request| request.names = Some(names)).unwrap();
                let checked = written.checked;
                assert!(checked.trained > 0 && checked.from_base.unwrap() > 0.0, "{}: {checked}", case.name);
                let config = json_of(&peft, "adapter_config.json");
                let saved: Vec<_> = config["modules_to_save"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .map(|name| name.as_str().unwrap())
                    .collect();
                assert_eq!(saved, case.saved, "{}", case.name);
                let pattern = config["target_modules"].as_str().unwrap();
                assert!(
                    pattern.contains(case.adapted) && !pattern.contains("vision"),
                    "{}: {pattern}",
                    case.name
                );
                let merged = merged(Some(&base), &[(&peft, 1.0)], &below(&format!("of_{names}")));
                close_tensors(case.name, &merged, &whole, 1e-6);
            }
        }
    });
}
