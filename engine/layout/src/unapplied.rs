//! Settings of Hugging Face's files that this program does not apply. Files with these settings are usable, and a warning
//! is printed. Settings that would make results wrong are refused where the file is read.

use serde_json::Value;

/// Dropout of `transformers.LlamaConfig`, `CLIPVisionConfig` and `InternVLVisionConfig`: it changes training only.
const DROPOUTS: &[(&str, &str)] = &[
    ("", "attention_dropout"),
    ("text_config", "attention_dropout"),
    ("vision_config", "attention_dropout"),
    ("vision_config", "dropout"),
    ("vision_config", "hidden_dropout_prob"),
    ("vision_config", "projection_dropout"),
];

/// Returns a sentence for each setting of a model's `config.json` that this program does not apply.
pub fn unapplied_model_settings(config: &Value) -> Vec<String> {
    let dropout = |(part, name): &(&str, &str)| {
        // Settings of a language model without vision encoder are at the top level.
        let (object, prefix) = match *part {
            "" => (config, String::new()),
            part => (config.get(part)?, format!("{part}.")),
        };
        let value = object.get(name)?;
        let is_neutral = value.is_null() || value.as_f64() == Some(0.0);
        (!is_neutral).then(|| format!("`{prefix}{name}` is {value}, but this program trains without dropout"))
    };
    DROPOUTS.iter().filter_map(dropout).collect()
}

/// Settings of `transformers.GenerationConfig` that change a greedy answer, with their neutral values.
const GENERATION: &[(&str, &[&str])] = &[
    ("do_sample", &["false"]),
    ("num_beams", &["1"]),
    ("repetition_penalty", &["1.0", "1"]),
    ("encoder_repetition_penalty", &["1.0", "1"]),
    ("no_repeat_ngram_size", &["0"]),
    ("encoder_no_repeat_ngram_size", &["0"]),
    ("min_length", &["0"]),
    ("min_new_tokens", &["0"]),
    ("bad_words_ids", &["[]"]),
    ("sequence_bias", &["{}"]),
    ("suppress_tokens", &["[]"]),
    ("begin_suppress_tokens", &["[]"]),
    ("forced_bos_token_id", &[]),
    ("forced_eos_token_id", &[]),
    ("exponential_decay_length_penalty", &[]),
    ("guidance_scale", &["1.0", "1"]),
    ("penalty_alpha", &["0.0", "0"]),
    ("dola_layers", &[]),
    ("stop_strings", &["[]"]),
];

/// Returns a sentence for each setting of a `generation_config.json` that this program does not apply: it takes the most
/// likely token until the end of the answer.
pub fn unapplied_generation_settings(config: &Value) -> Vec<String> {
    let sentence = |(name, neutral): &(&str, &[&str])| {
        let value = config.get(name).filter(|value| !value.is_null())?;
        let is_neutral = neutral.contains(&value.to_string().as_str());
        (!is_neutral).then(|| format!("`{name}` is {value}, but answers take the most likely token each time"))
    };
    GENERATION.iter().filter_map(sentence).collect()
}

/// Returns the tokens that end an answer: `eos_token_id` of a `generation_config.json` or `config.json`, a number or a list.
pub fn end_tokens(config: &Value) -> Vec<i64> {
    let text = config.get("text_config");
    let named = config.get("eos_token_id").or_else(|| text?.get("eos_token_id"));
    match named {
        Some(Value::Array(ends)) => ends.iter().filter_map(Value::as_i64).collect(),
        Some(end) => end.as_i64().into_iter().collect(),
        None => Vec::new(),
    }
}
