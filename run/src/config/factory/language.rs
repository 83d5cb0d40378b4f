//! NeMo's config classes of language models, such as `llm.Llama2Config7B`, with the arguments of NeMo and of Hugging Face.
//! `llm.LlamaModel(config=...)` is a model with such a config.

use neva_schemas::TextConfig;

use super::{Factories, vision::preset};

/// Arguments of Megatron's configs, and their fields here.
const TEXT: &[(&str, &str)] = &[
    ("num_layers", "num_hidden_layers"),
    ("ffn_hidden_size", "intermediate_size"),
    ("num_query_groups", "num_key_value_heads"),
    ("kv_channels", "head_dim"),
    ("rotary_base", "rope_theta"),
    ("rotary_percent", "partial_rotary_factor"),
    ("seq_length", "max_position_embeddings"),
    ("init_method_std", "initializer_range"),
    ("share_embeddings_and_output_weights", "tie_word_embeddings"),
];

impl Factories {
    /// Adds the config classes of language models.
    pub(super) fn with_language_classes(self) -> Self {
        TextConfig::presets().into_iter().fold(self, |factories, (name, value)| {
            factories.with_nodes("TextConfig", name, move |arguments, _| preset(&value, TEXT, arguments))
        })
    }
}
