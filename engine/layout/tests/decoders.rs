//! Tables and configs of the families of language models.

use neva_layout::{Families, from_hf_config};
use neva_schemas::{
    Activation, LayerType, LlavaModel, Model, RopeScaling, RopeType, TextConfig, TextModelType, Validate as _, VisionPlacement,
};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Returns a config with two layers, 4 query heads and 2 key heads, each of width 4.
fn of(family: TextModelType) -> TextConfig {
    TextConfig {
        model_type: Some(family),
        vocab_size: 200,
        hidden_size: 16,
        intermediate_size: 24,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        ..TextConfig::default()
    }
}

fn scaling(rope_type: RopeType, [low, high]: [Option<f64>; 2], context: Option<usize>) -> RopeScaling {
    RopeScaling {
        rope_type,
        factor: 2.0,
        low_freq_factor: low,
        high_freq_factor: high,
        original_max_position_embeddings: context,
    }
}

fn configs() -> Vec<TextConfig> {
    let qwen2 = TextConfig {
        sliding_window: Some(9),
        use_sliding_window: Some(true),
        ..of(TextModelType::Qwen2)
    };
    vec![
        TextConfig {
            attention_bias: true,
            mlp_bias: true,
            hidden_act: Some(Activation::Gelu),
            rope_scaling: Some(scaling(RopeType::Llama3, [Some(1.0), Some(4.0)], Some(64))),
            ..of(TextModelType::Llama)
        },
        of(TextModelType::Mistral),
        TextConfig {
            sliding_window: Some(7),
            rope_scaling: Some(scaling(RopeType::Linear, [None; 2], None)),
            ..of(TextModelType::Mistral)
        },
        of(TextModelType::Nemotron),
        TextConfig {
            norm_eps: Some(1e-3),
            partial_rotary_factor: Some(1.0),
            ..of(TextModelType::Nemotron)
        },
        of(TextModelType::Qwen2),
        qwen2.clone(),
        TextConfig {
            max_window_layers: Some(0),
            ..qwen2.clone()
        },
        TextConfig {
            max_window_layers: Some(1),
            ..qwen2.clone()
        },
        TextConfig {
            layer_types: Some(vec![LayerType::SlidingAttention, LayerType::FullAttention]),
            ..qwen2
        },
    ]
}

/// The config of each family is read as it was written, alone and within a model that reads images.
#[test]
fn configs_are_read_as_they_are_written() {
    for config in configs() {
        let alone = Model::language(config.clone());
        let seeing = Model::Llava(LlavaModel {
            text_config: config,
            ..LlavaModel::default()
        });
        for model in [alone, seeing] {
            let problems = model.problems("");
            assert!(problems.is_empty(), "{model:?}: {problems:?}");
            let families = Families::builtin();
            let written = families.resolve(&model, "model").unwrap().write_config();
            let found = families.read_config(&written).unwrap();
            assert_eq!(found.explicit(), model.explicit(), "{written}");
        }
    }
}

#[test]
fn rows_follow_the_structure_of_a_family() {
    let names = |family: TextModelType, bias: bool| -> BTreeSet<String> {
        let config = TextConfig {
            attention_bias: bias,
            mlp_bias: bias,
            ..of(family)
        };
        let table = Families::builtin().resolve(&Model::language(config), "model").unwrap();
        let rows = table.parameters(VisionPlacement::Shared).into_iter();
        let layer = |name: &str| name.strip_prefix("model.layers.1.").map(str::to_owned);
        rows.filter_map(|row| Some(format!("{} {:?} {:?}", layer(&row.name)?, row.cut, row.shape)))
            .collect()
    };
    let llama = names(TextModelType::Llama, false);
    assert_eq!(llama.len(), 9);
    assert_eq!(names(TextModelType::Mistral, false), llama);
    let more = |family, bias| names(family, bias).difference(&llama).cloned().collect::<Vec<_>>();
    let qkv = [
        "self_attn.k_proj.bias Column [8]",
        "self_attn.q_proj.bias Column [16]",
        "self_attn.v_proj.bias Column [8]",
    ];
    assert_eq!(more(TextModelType::Qwen2, false), qkv);
    let norms = [
        "input_layernorm.bias Replicate [16]",
        "post_attention_layernorm.bias Replicate [16]",
    ];
    assert_eq!(more(TextModelType::Nemotron, false), norms);
    assert!(!names(TextModelType::Nemotron, false).contains("mlp.gate_proj.weight Column [24, 16]"));
    let biased = more(TextModelType::Llama, true);
    assert_eq!(biased.len(), 7);
    for row in ["self_attn.o_proj.bias Replicate [16]", "mlp.gate_proj.bias Column [24]"] {
        assert!(biased.contains(&row.to_owned()), "{biased:?}");
    }
}

/// Spellings of transformers 4 and 5, and what they mean where a field is absent.
#[test]
fn fields_are_read_as_transformers_reads_them() {
    let read = |text: Value| from_hf_config(&json!({"model_type": "llava", "text_config": text})).map(|model| model.text_config);
    let window = |text: Value| read(text).unwrap().window(1);
    assert_eq!(window(json!({"model_type": "mistral"})), Some(4096));
    assert_eq!(window(json!({"model_type": "mistral", "sliding_window": null})), None);
    assert_eq!(window(json!({"model_type": "qwen2", "sliding_window": 8})), None);
    let qwen2 = json!({"model_type": "qwen2", "sliding_window": 8, "use_sliding_window": true, "max_window_layers": 1});
    assert_eq!(window(qwen2), Some(8));
    let factor = |text: Value| read(text).unwrap().rotary_factor();
    assert_eq!(factor(json!({"model_type": "nemotron"})), 0.5);
    assert_eq!(factor(json!({"model_type": "nemotron", "partial_rotary_factor": 0.25})), 0.25);
    let new = json!({"model_type": "nemotron", "rope_parameters": {"partial_rotary_factor": 0.25, "rope_theta": 1e4}});
    assert_eq!(factor(new), 0.25);
    let (old, new) = (
        json!({"model_type": "llama", "rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2}}),
        json!({"model_type": "llama", "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5}}),
    );
    assert_eq!(read(old).unwrap(), read(new).unwrap());
    for (text, expected) in [
        (json!({"model_type": "qwen2", "layer_types": ["chunked_attention"]}), "layer_types"),
        (
            json!({"model_type": "llama", "partial_rotary_factor": 0.5}),
            "partial_rotary_factor",
        ),
        (
            json!({"model_type": "llama", "rope_scaling": {"rope_type": "llama3"}}),
            "has no `factor`",
        ),
    ] {
        let error = read(text).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

/// A field that the family does not have is refused.
#[test]
fn fields_without_effect_are_refused() {
    let base = of(TextModelType::Llama);
    for (config, expected) in [
        (
            TextConfig {
                sliding_window: Some(4),
                ..base.clone()
            },
            "`sliding_window` has no effect in the model family llama",
        ),
        (
            TextConfig {
                attention_bias: true,
                ..of(TextModelType::Qwen2)
            },
            "`attention_bias` has no effect",
        ),
        (
            TextConfig {
                rms_norm_eps: 1e-3,
                ..of(TextModelType::Nemotron)
            },
            "`rms_norm_eps` has no effect",
        ),
        (
            TextConfig {
                sliding_window: Some(0),
                ..of(TextModelType::Mistral)
            },
            "no query would attend to a key",
        ),
        (
            TextConfig {
                rope_scaling: Some(scaling(RopeType::Llama3, [Some(4.0), Some(1.0)], Some(64))),
                ..base.clone()
            },
            "is not greater than `low_freq_factor`",
        ),
        (
            TextConfig {
                rope_scaling: Some(scaling(RopeType::Linear, [None, Some(1.0)], None)),
                ..base
            },
            "no effect with rope_type linear",
        ),
    ] {
        let problems: Vec<_> = Model::language(config).problems("").iter().map(ToString::to_string).collect();
        assert!(
            problems.iter().any(|problem| problem.contains(expected)),
            "{expected}: {problems:?}"
        );
    }
}
