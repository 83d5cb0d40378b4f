//! Unsupported settings of Hugging Face's files are reported; neutral ones are not.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use neva_layout::{HfConfigError, PeftConfig, from_hf_config, unapplied_generation_settings, unapplied_model_settings};
use neva_schemas::LoRA;
use serde_json::{Value, json};

fn config(pointer: &str, value: Value) -> Value {
    let mut config =
        json!({"model_type": "llava", "text_config": {"model_type": "llama"}, "vision_config": {"model_type": "clip_vision_model"}});
    let (parent, name) = pointer.rsplit_once('/').unwrap();
    config.pointer_mut(parent).unwrap()[name] = value;
    config
}

#[test]
fn dropout_of_a_model_is_reported() {
    for (pointer, value, named) in [
        ("/text_config/attention_dropout", json!(0.1), true),
        ("/vision_config/attention_dropout", json!(0.1), true),
        ("/vision_config/dropout", json!(0.5), true),
        ("/text_config/attention_dropout", json!(0.0), false),
        ("/text_config/attention_dropout", json!(0), false),
        ("/text_config/attention_dropout", json!(null), false),
        ("/text_config/hidden_size", json!(64), false),
    ] {
        let config = config(pointer, value.clone());
        let sentences = unapplied_model_settings(&config);
        assert_eq!(sentences.len(), usize::from(named), "{pointer} {value}: {sentences:?}");
        from_hf_config(&config).unwrap();
    }
}

#[test]
fn settings_that_change_the_forward_pass_are_refused() {
    for (pointer, value, name) in [
        ("/quantization_config", json!({"bits": 4}), "quantization_config"),
        (
            "/text_config/quantization_config",
            json!({"bits": 4}),
            "text_config.quantization_config",
        ),
        ("/text_config/partial_rotary_factor", json!(0.5), "partial_rotary_factor"),
        (
            "/text_config/rope_parameters",
            json!({"rope_theta": 1e4, "partial_rotary_factor": 0.5}),
            "partial_rotary_factor",
        ),
        ("/text_config/rope_scaling", json!({"type": "yarn", "factor": 2.0}), "yarn"),
        ("/text_config/hidden_act", json!("softsign9"), "hidden_act"),
        ("/vision_config/hidden_act", json!("softsign9"), "hidden_act"),
    ] {
        let HfConfigError::Unsupported(problems) = from_hf_config(&config(pointer, value)).unwrap_err() else {
            panic!("{pointer}");
        };
        assert!(problems.len() == 1 && problems[0].contains(name), "{pointer}: {problems:?}");
    }
    let original = json!({"model_type": "llava", "mm_vision_tower": "openai/clip", "hidden_size": 4096});
    let error = from_hf_config(&original).unwrap_err().to_string();
    assert!(error.contains("original LLaVA"), "{error}");
}

#[test]
fn settings_of_an_adapter_are_applied_refused_or_reported() {
    let adapter = |name: &str, value: Value| {
        let mut config = json!({"peft_type": "LORA", "r": 8, "lora_alpha": 16, "lora_dropout": 0.0});
        config[name] = value;
        PeftConfig::from_json(&config)
    };
    let with_dropout = adapter("lora_dropout", json!(0.1)).unwrap();
    assert_eq!(
        with_dropout.unapplied(&LoRA::default()),
        ["`lora_dropout` is 0.1, but the run's `dropout` is 0.0: to train as before, --set finetune.peft.dropout=0.1"]
    );
    let same = LoRA {
        dropout: 0.1,
        ..LoRA::default()
    };
    assert_eq!(with_dropout.unapplied(&same), [""; 0]);
    let patterns = adapter("rank_pattern", json!({"q_proj": 4, r"layers\.1\..*": 2})).unwrap();
    for (name, rank) in [
        ("layers.1.self_attn.q_proj", 4),
        ("model.layers.1.mlp.up_proj", 2),
        ("layers.0.my_q_proj", 8),
    ] {
        assert_eq!(patterns.of_linear(&[name.to_owned()]), Ok((rank, 16.0)), "{name}");
    }
    for (kind, name) in [
        ("IA3", "(IA)³"),
        ("ADALORA", "AdaLoRA"),
        ("PROMPT_TUNING", "prompt tuning"),
        ("LOHA", "LoHa"),
    ] {
        let problems = PeftConfig::from_json(&json!({ "peft_type": kind, "bias": "all" })).unwrap_err();
        assert!(
            problems.len() == 1 && problems[0].contains(name) && problems[0].contains("LORA"),
            "{kind}: {problems:?}"
        );
    }
    for (name, neutral, other) in [
        ("use_qalora", json!(false), json!(true)),
        ("rank_pattern", json!({}), json!({"q_proj": "four"})),
        ("target_parameters", json!([]), json!(["experts.weight"])),
        ("trainable_token_indices", json!(null), json!([1, 2])),
        ("bias", json!("none"), json!("lora_only")),
        ("init_lora_weights", json!(true), json!("pissa")),
    ] {
        assert_eq!(adapter(name, neutral).unwrap().unapplied(&LoRA::default()), [""; 0], "{name}");
        let problems = adapter(name, other).unwrap_err();
        assert!(problems.len() == 1 && problems[0].contains(name), "{name}: {problems:?}");
    }
}

#[test]
fn settings_of_generation_are_reported() {
    let neutral = json!({
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "do_sample": false, "num_beams": 1, "temperature": 1.0,
        "repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "max_length": 4096, "transformers_version": "5.0.0",
    });
    assert_eq!(unapplied_generation_settings(&neutral, Some(2)), [""; 0]);
    for (name, value) in [
        ("do_sample", json!(true)),
        ("num_beams", json!(4)),
        ("repetition_penalty", json!(1.2)),
        ("no_repeat_ngram_size", json!(3)),
        ("suppress_tokens", json!([7])),
        ("eos_token_id", json!([2, 9])),
    ] {
        let mut config = neutral.clone();
        config[name] = value;
        let sentences = unapplied_generation_settings(&config, Some(2));
        assert!(sentences.len() == 1 && sentences[0].contains(name), "{name}: {sentences:?}");
    }
}
