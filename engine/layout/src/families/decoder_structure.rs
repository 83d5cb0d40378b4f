//! Structure of a decoder by its family.

use super::decoder::DecoderStructure;
use super::{llama, mistral, nemotron, qwen2};
use neva_schemas::{TextConfig, TextModelType};

impl DecoderStructure {
    /// Returns the structure of a decoder of a built-in family; that of Llama for a custom one.
    pub fn of(config: &TextConfig) -> Self {
        match config.family() {
            TextModelType::Llama | TextModelType::Custom(_) => llama::structure(config),
            TextModelType::Mistral => mistral::structure(),
            TextModelType::Nemotron => nemotron::structure(config),
            TextModelType::Qwen2 => qwen2::structure(),
        }
    }
}
