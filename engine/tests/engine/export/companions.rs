//! Files beside the weights: an export is complete without the base, and says where answers end.

use super::{exported, json_of, trained};
use crate::setting::{ONE, names, preload, preloaded, small, within_limit};
use neva_data::{ChatTemplate, Conversation, ImageProcessor, TextTools, Tokenizer, Turn};
use neva_engine::export::ExportFormat;
use neva_schemas::{Finetune, ImageDataConfig, ImageProcessMode, LanguageModel, Model, TextConfig};
use serde_json::{Value, json};
use std::path::Path;

/// Returns a run from fresh weights on records of text.
fn finetune(folder: &Path, template: &str) -> Finetune {
    let file = folder.join("records.json");
    let record = |index: usize| {
        let (question, answer) = (format!("What is {index}?"), format!("It is {index}."));
        json!({"conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]})
    };
    std::fs::write(&file, Value::from_iter((0..16).map(record)).to_string()).unwrap();
    let mut finetune = small();
    preload(&mut finetune, &file).data_config.conv_template = Some(template.to_owned());
    finetune.model.as_llava_mut().unwrap().image_token_index = 2046;
    finetune
}

fn alone(finetune: &mut Finetune) {
    let config = TextConfig {
        model_type: None,
        vocab_size: 2048,
        ..finetune.model.as_llava().unwrap().text_config.clone()
    };
    finetune.model = Model::Llama(LanguageModel {
        config,
        ..LanguageModel::default()
    });
}

fn conversation() -> Conversation {
    let turn = |question: &str, answer: Option<&str>| Turn {
        question: question.to_owned(),
        answer: answer.map(str::to_owned),
    };
    Conversation {
        system: None,
        turns: vec![turn("What is 1?", Some("It is 1.")), turn("And 2?", None)],
    }
}

#[test]
fn make_an_export_of_fresh_weights_complete() {
    within_limit(|| {
        let folder = tempfile::tempdir().unwrap();
        let mut finetune = finetune(folder.path(), "v1");
        preloaded(&mut finetune).data_config.image_process_mode = ImageProcessMode::Pad;
        let checkpoint = trained(folder.path(), &finetune, ONE);
        let out = folder.path().join("out");
        let written = exported(&checkpoint.path, &out, ExportFormat::Hf, |_| {}).unwrap();
        assert_eq!(written.notes, Vec::<String>::new());
        assert_eq!(
            names(&out),
            [
                "chat_template.jinja",
                "chat_template.json",
                "config.json",
                "generation_config.json",
                "model.safetensors",
                "preprocessor_config.json",
                "processor_config.json",
                "special_tokens_map.json",
                "tokenizer.json",
                "tokenizer_config.json",
            ]
        );
        let generation = json_of(&out, "generation_config.json");
        assert_eq!(generation, json!({ "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2047 }));
        let text = &json_of(&out, "config.json")["text_config"];
        assert_eq!(
            (&text["bos_token_id"], &text["eos_token_id"], &text["pad_token_id"]),
            (&json!(1), &json!(2), &json!(2047))
        );
        let tokens = json_of(&out, "tokenizer_config.json");
        for (name, token) in [("bos_token", "<s>"), ("eos_token", "</s>"), ("pad_token", "<pad>")] {
            assert_eq!(tokens[name], token, "{name}");
        }
        let jinja = std::fs::read_to_string(out.join("chat_template.jinja")).unwrap();
        assert_eq!(
            (&tokens["chat_template"], &json_of(&out, "chat_template.json")["chat_template"]),
            (&json!(jinja), &json!(jinja))
        );
        let processor = json_of(&out, "processor_config.json");
        assert_eq!(processor["processor_class"], "LlavaProcessor");
        assert_eq!(
            (&processor["patch_size"], &processor["num_additional_image_tokens"]),
            (&json!(14), &json!(1))
        );
        assert!(ImageProcessor::open(&out).unwrap().pads, "the run pads images to a square");

        // The template in the folder renders what the run was trained on.
        let open = || Tokenizer::open(&out.display().to_string()).unwrap();
        let config = ImageDataConfig {
            conv_template: None,
            ..ImageDataConfig::default()
        };
        let own = TextTools::new(&config, Some(true), open()).unwrap();
        let named = ChatTemplate::named("v1").unwrap().render(&conversation()).unwrap();
        assert_eq!(own.template.render(&conversation()).unwrap().text, named.text);
    });
}

/// A tokenizer's `apply_chat_template` adds no BOS; a run without BOS is one without it for every program.
#[test]
fn say_whether_a_text_starts_with_bos() {
    within_limit(|| {
        for (add_bos, images) in [(None, true), (Some(false), true), (None, false), (Some(false), false)] {
            let folder = tempfile::tempdir().unwrap();
            let mut finetune = finetune(folder.path(), "v1");
            preloaded(&mut finetune).add_bos = add_bos;
            if !images {
                alone(&mut finetune);
            }
            let checkpoint = trained(folder.path(), &finetune, ONE);
            let out = folder.path().join("out");
            exported(&checkpoint.path, &out, ExportFormat::Hf, |_| {}).unwrap();
            let adds = add_bos.unwrap_or(true);
            assert_eq!(Tokenizer::open(&out.display().to_string()).unwrap().adds_bos(), adds);
            let file = json_of(&out, "tokenizer.json");
            let steps = file["post_processor"].to_string();
            assert_eq!(steps.contains("TemplateProcessing"), adds, "{steps}");
            let jinja = std::fs::read_to_string(out.join("chat_template.jinja")).unwrap();
            assert_eq!(jinja.contains("bos_token"), adds && !images, "{jinja}");
            assert_eq!(out.join("processor_config.json").exists(), images);
        }
    });
}

/// Where an answer ends with another token than the tokenizer's end of sequence, generation stops at that, too.
#[test]
fn stop_at_the_end_of_an_answer() {
    within_limit(|| {
        for (template, ends, notes) in [("v1", json!(2), 0), ("plain", json!([2, 13]), 0), ("llava_v0", json!([2, 774]), 0)] {
            let folder = tempfile::tempdir().unwrap();
            let mut finetune = finetune(folder.path(), template);
            if template == "plain" {
                // Captions need an image.
                finetune = self::finetune(folder.path(), "v1");
            }
            let checkpoint = trained(folder.path(), &finetune, ONE);
            if template == "plain" {
                let path = checkpoint.path.join("run.json");
                let run = std::fs::read_to_string(&path).unwrap();
                std::fs::write(&path, run.replace("\"conv_template\": \"v1\"", "\"conv_template\": \"plain\"")).unwrap();
                crate::setting::reseal(&checkpoint.path);
            }
            let out = folder.path().join("out");
            let written = exported(&checkpoint.path, &out, ExportFormat::Hf, |_| {}).unwrap();
            assert_eq!(json_of(&out, "generation_config.json")["eos_token_id"], ends, "{template}");
            assert_eq!(written.notes.len(), notes, "{template}: {:?}", written.notes);
        }
    });
}

/// transformers' processor needs a token for images, which this program does not.
#[test]
fn give_the_tokenizer_a_token_for_images() {
    within_limit(|| {
        for (rows, id) in [(2048, Some(2046)), (2046, None)] {
            let folder = tempfile::tempdir().unwrap();
            let tokenizer = folder.path().join("tokenizer");
            std::fs::create_dir(&tokenizer).unwrap();
            for (name, content) in Tokenizer::builtin("mistral_2k").unwrap().files() {
                let mut content: Value = serde_json::from_slice(&content).unwrap();
                if let Some(added) = content["added_tokens"].as_array_mut() {
                    added.retain(|token| token["id"].as_u64().unwrap() < 2046);
                }
                for name in ["extra_special_tokens", "pad_token"] {
                    content.as_object_mut().unwrap().remove(name);
                }
                std::fs::write(tokenizer.join(name), content.to_string()).unwrap();
            }
            let mut finetune = finetune(folder.path(), "v1");
            preloaded(&mut finetune).tokenizer = Some(tokenizer.display().to_string());
            finetune.model.as_llava_mut().unwrap().text_config.vocab_size = rows;
            let checkpoint = trained(folder.path(), &finetune, ONE);
            let out = folder.path().join("out");
            let written = exported(&checkpoint.path, &out, ExportFormat::Hf, |_| {}).unwrap();
            assert_eq!(written.notes.len(), usize::from(id.is_none()), "{:?}", written.notes);
            let special = Tokenizer::open(&out.display().to_string()).unwrap().special();
            assert_eq!(special.image, id);
            if let Some(id) = id {
                assert_eq!(json_of(&out, "config.json")["image_token_index"], id);
            }
            // Without a token of its own, the end of a sequence fills.
            assert_eq!(json_of(&out, "generation_config.json")["pad_token_id"], 2);
        }
    });
}
