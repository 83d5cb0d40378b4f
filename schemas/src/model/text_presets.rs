//! Language models with a config class in NeMo, by class name.

use super::rope::{RopeScaling, RopeType};
use super::text::{TextConfig, TextModelType};

/// Vocabulary, hidden size, MLP size, layers, heads, key heads, positions.
type Sizes = [usize; 7];

impl TextConfig {
    /// Returns the name of each class, such as `Llama2Config7B`, with its config.
    pub fn presets() -> Vec<(&'static str, Self)> {
        vec![
            ("Llama2Config7B", llama2([32000, 4096, 11008, 32, 32, 32, 4096])),
            ("Llama2Config13B", llama2([32000, 5120, 13824, 40, 40, 40, 4096])),
            ("Llama2Config70B", llama2([32000, 8192, 28672, 80, 64, 8, 4096])),
            ("Llama3Config8B", llama3([128_256, 4096, 14336, 32, 32, 8, 8192], 0.01)),
            ("Llama3Config70B", llama3([128_256, 8192, 28672, 80, 64, 8, 8192], 0.008_944)),
            ("Llama31Config8B", llama31([128_256, 4096, 14336, 32, 32, 8, 131_072], 0.01)),
            ("Llama31Config70B", llama31([128_256, 8192, 28672, 80, 64, 8, 131_072], 0.008_944)),
            ("MistralConfig7B", mistral([32000, 4096, 14336, 32, 32, 8, 32768])),
            ("Nemotron3Config4B", nemotron([256_000, 3072, 9216, 32, 24, 8, 4096], 0.0134)),
            ("Nemotron3Config8B", nemotron([256_000, 4096, 16384, 32, 32, 32, 4096], 0.01)),
            ("Nemotron4Config15B", nemotron([256_000, 6144, 24576, 32, 48, 8, 4096], 0.0134)),
            ("Qwen2Config500M", qwen2([151_936, 896, 4864, 24, 14, 2, 32768], true)),
            ("Qwen2Config1P5B", qwen2([151_936, 1536, 8960, 28, 12, 2, 32768], true)),
            ("Qwen2Config7B", qwen2([152_064, 3584, 18944, 28, 28, 4, 32768], false)),
        ]
    }
}

fn sized(family: TextModelType, sizes: Sizes) -> TextConfig {
    let [vocab_size, hidden_size, intermediate_size, layers, heads, key_heads, positions] = sizes;
    TextConfig {
        model_type: Some(family),
        vocab_size,
        hidden_size,
        intermediate_size,
        num_hidden_layers: layers,
        num_attention_heads: heads,
        num_key_value_heads: key_heads,
        max_position_embeddings: positions,
        ..TextConfig::default()
    }
}

fn llama2(sizes: Sizes) -> TextConfig {
    sized(TextModelType::Llama, sizes)
}

fn llama3(sizes: Sizes, initializer_range: f64) -> TextConfig {
    TextConfig {
        rope_theta: 500_000.0,
        initializer_range,
        ..sized(TextModelType::Llama, sizes)
    }
}

fn llama31(sizes: Sizes, initializer_range: f64) -> TextConfig {
    TextConfig {
        rope_scaling: Some(RopeScaling {
            rope_type: RopeType::Llama3,
            factor: 8.0,
            low_freq_factor: Some(1.0),
            high_freq_factor: Some(4.0),
            original_max_position_embeddings: Some(8192),
        }),
        ..llama3(sizes, initializer_range)
    }
}

/// Returns a config of Mistral 7B v0.1.
fn mistral(sizes: Sizes) -> TextConfig {
    TextConfig {
        head_dim: Some(128),
        sliding_window: Some(4096),
        ..sized(TextModelType::Mistral, sizes)
    }
}

fn nemotron(sizes: Sizes, initializer_range: f64) -> TextConfig {
    TextConfig {
        head_dim: Some(128),
        norm_eps: Some(1e-5),
        initializer_range,
        ..sized(TextModelType::Nemotron, sizes)
    }
}

fn qwen2(sizes: Sizes, tie_word_embeddings: bool) -> TextConfig {
    TextConfig {
        rms_norm_eps: 1e-6,
        rope_theta: 1e6,
        tie_word_embeddings,
        ..sized(TextModelType::Qwen2, sizes)
    }
}
