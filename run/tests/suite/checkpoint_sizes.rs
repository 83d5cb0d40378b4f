//! `finetune.model.from_pretrained`: sizes of the checkpoint, unless the configuration states them.

use neva_run::{ResolveOptions, Resolved, load, resolve, resolve_with};
use neva_schemas::{LlavaModel, Problem, RestoreConfig};

fn fixture(case: &str) -> String {
    format!("{}/../tests/fixtures/hf/{case}", env!("CARGO_MANIFEST_DIR"))
}

fn resolved(recipe: &str, sets: &[String]) -> Resolved {
    resolve(load(recipe).unwrap(), sets).unwrap_or_else(|problems| panic!("{problems}"))
}

fn model(resolved: &Resolved) -> &LlavaModel {
    resolved.run.finetune.model.as_llava().unwrap()
}

fn set(address: &str) -> String {
    format!("finetune.model.from_pretrained={address}")
}

#[test]
fn sizes_and_weights_are_the_checkpoints() {
    for (recipe, case, key_value_heads, layer) in [
        ("neva_tiny", "llava_clip_llama", 4, -2),
        ("llava15_7b", "llava_clip_llama_gqa", 2, -2),
    ] {
        let address = fixture(case);
        let resolved = resolved(recipe, &[set(&address), "finetune.data.seq_length=64".to_owned()]);
        let model = model(&resolved);
        let text = &model.text_config;
        assert_eq!(
            (text.hidden_size, text.vocab_size, text.num_key_value_heads),
            (64, 2048, key_value_heads)
        );
        assert_eq!(
            (model.vision_config.image_size, &model.vision_feature_layer, model.image_token_index),
            (56, &layer.into(), 2046)
        );
        let restore = resolved.run.finetune.resume.restore_config.as_ref();
        assert_eq!(
            restore,
            Some(&RestoreConfig::weights(&address)),
            "the recipe's own start is not taken"
        );
        // Each value has its origin.
        let traced = resolved.traced().unwrap();
        let at = neva_run::config::locate(&traced, "finetune.model.text_config.hidden_size").unwrap();
        assert!(at.to_string().contains("config.json:"), "{at}");
        // The recipe determines the frozen parts.
        assert_eq!(resolved.run.finetune.model.freezing(), resolved_freezing(recipe));
    }
}

fn resolved_freezing(recipe: &str) -> neva_schemas::Freezing {
    resolved(recipe, &[]).run.finetune.model.freezing()
}

#[test]
fn stated_values_override_the_checkpoint() {
    let sets = [
        "finetune.model.text_config.max_position_embeddings=300".to_owned(),
        set(&fixture("llava_clip_llama")),
        "finetune.model.vision_feature_layer=-1".to_owned(),
    ];
    let resolved = resolved("neva_tiny", &sets);
    let model = model(&resolved);
    assert_eq!(
        (model.text_config.max_position_embeddings, &model.vision_feature_layer),
        (300, &(-1).into())
    );
    assert_eq!(model.text_config.hidden_size, 64);
}

#[test]
fn a_record_of_a_run_is_resolved_without_its_checkpoint() {
    fn nobody(address: &str) -> Result<neva_run::Pretrained, Problem> {
        panic!("{address} is read")
    }
    let first = resolved("neva_tiny", &[set(&fixture("llava_clip_llama"))]);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("run.json");
    std::fs::write(&file, serde_json::to_string(&first.run).unwrap()).unwrap();
    let options = ResolveOptions {
        pretrained: nobody,
        ..ResolveOptions::default()
    };
    let again =
        resolve_with(load(file.to_str().unwrap()).unwrap(), &[] as &[&str], &options).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(again.run.finetune, first.run.finetune);
}

/// Creates a folder of the language model in a fixture.
fn language_model(case: &str) -> tempfile::TempDir {
    let text = std::fs::read_to_string(format!("{}/config.json", fixture(case))).unwrap();
    let config: serde_json::Value = serde_json::from_str(&text).unwrap();
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.json"), config["text_config"].to_string()).unwrap();
    dir
}

#[test]
fn every_kind_of_model_takes_the_sizes_of_its_checkpoint() {
    for (case, targets, refused) in [
        ("llava_clip_llama", ["llm.LlamaModel", "llm.GPTModel"], "llm.Qwen2Model"),
        ("mistral_window", ["llm.MistralModel", "llm.GPTModel"], "llm.LlamaModel"),
        ("nemotron_bias", ["llm.NemotronModel", "llm.GPTModel"], "vlm.LlavaModel"),
        ("qwen2_window", ["llm.Qwen2Model", "llm.GPTModel"], "llm.MistralModel"),
    ] {
        let folder = language_model(case);
        let set = |target: &str| {
            let address = folder.path().display();
            let config = if target.starts_with("llm.") { "config" } else { "text_config" };
            let model =
                format!("finetune.model={{_target_: {target}, from_pretrained: {address}, {config}: {{max_position_embeddings: 300}}}}");
            vec![model, "finetune.data.seq_length=64".to_owned()]
        };
        for target in targets {
            let resolved = resolved("neva_tiny", &set(target));
            let model = &resolved.run.finetune.model;
            assert_eq!(model.target(), target);
            let own = neva_schemas::TextConfig::default();
            let config = model.description().decoder.unwrap().config;
            assert_eq!((config.vocab_size, config.max_position_embeddings), (2048, 300), "{case}");
            assert!(
                config.hidden_size < own.hidden_size && targets[0].to_lowercase().contains(config.family().name()),
                "{case}"
            );
        }
        let problems = resolve(load("neva_tiny").unwrap(), &set(refused)).unwrap_err();
        let text = neva_run::config::render(&problems, false);
        assert!(
            text.contains(&format!("the run trains {refused}")) && text.contains(targets[0]),
            "{text}"
        );
    }
    for case in ["internvl_qwen2", "llava_siglip_llama", "llava_internvit", "mistral_window"] {
        let resolved = resolved("neva_tiny", &[set(&fixture(case)), "finetune.data.seq_length=256".to_owned()]);
        let text = std::fs::read_to_string(format!("{}/config.json", fixture(case))).unwrap();
        let config: serde_json::Value = serde_json::from_str(&text).unwrap();
        let model = model(&resolved);
        assert_eq!(
            model.vision_config.model_type.name(),
            config["vision_config"]["model_type"].as_str().unwrap()
        );
        assert_eq!(
            model.text_config.family().name(),
            config["text_config"]["model_type"].as_str().unwrap()
        );
        assert_eq!(
            model.vision_config.hidden_size as u64,
            config["vision_config"]["hidden_size"].as_u64().unwrap()
        );
    }
}

#[test]
fn problems_have_the_origin_of_their_setting() {
    let fixture = fixture("llava_clip_llama");
    let cases: &[(&[String], &[&str])] = &[
        (&[set("/nope")], &["finetune.model.from_pretrained", "there is no model in /nope"]),
        (
            &[set("hf://nope")],
            &["finetune.model.from_pretrained", "is not the address of a model"],
        ),
        (&[set("''")], &["`from_pretrained` is empty"]),
        (&[set(&format!("{fixture}/../train_full"))], &["cannot read", "config.json"]),
        (
            &[set(&fixture), "finetune.resume.restore_config={path: /other}".to_owned()],
            &[
                "`restore_config` loads weights from /other",
                "but `from_pretrained` loads them from",
            ],
        ),
    ];
    for (sets, words) in cases {
        let problems = resolve(load("neva_tiny").unwrap(), sets).unwrap_err();
        let text = neva_run::config::render(&problems, false);
        let flat = text.split_whitespace().filter(|word| *word != "│").collect::<Vec<_>>().join(" ");
        for word in *words {
            assert!(flat.contains(word), "{word}: {text}");
        }
        assert!(text.contains("--set"), "{text}");
    }
}
