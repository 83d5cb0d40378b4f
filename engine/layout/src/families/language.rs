//! A language model alone: names and `config.json` of `transformers.AutoModelForCausalLM`.

use super::config_reader::{ConfigReader, HfConfigError};
use super::family::DecoderNames;
use super::llava::DECODER;
use super::registry::Families;
use neva_schemas::Model;
use serde_json::Value;

/// Parameter names of a decoder that is the whole model.
pub const DECODER_ALONE: DecoderNames<'_> = DecoderNames {
    body: "model",
    head: "lm_head",
    // As in a model with images, so that the targets of a recipe stay valid.
    megatron: DECODER.megatron,
};

impl Families {
    /// Reads the `config.json` of a language model alone; `None` if it describes another model.
    pub(super) fn read_language_config(&self, config: &Value) -> Option<Result<Model, HfConfigError>> {
        let kind = config.get("model_type").and_then(Value::as_str)?;
        let family = self.decoder_of_type(kind)?;
        let mut reader = ConfigReader::default();
        reader.expect_unquantized(config, "");
        let model = Model::language(family.read_config(config, "", false, &mut reader));
        Some(reader.finish(model))
    }
}

/// Returns the canonical name of a tensor; `None` if the tensor is not part of the model.
pub(super) fn canonical_name(name: &str) -> Option<String> {
    let below = |prefix: &str| name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('.'));
    (below(DECODER_ALONE.body) || below(DECODER_ALONE.head)).then(|| name.to_owned())
}
