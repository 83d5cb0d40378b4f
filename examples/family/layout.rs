//! A custom decoder family, first file: parameters, Hugging Face config and names.
//!
//! Attention and MLP of a layer are parallel and read the same norm (as in GPT-J); the MLP has biases and no gate.

use neva_layout::families::{ConfigReader, DecoderFamily, DecoderNames};
use neva_layout::{Cut, Init, LoraModule, ParamSpec, Part, PartialSum, Stage};
use neva_schemas::{CustomFamily, TextConfig, TextModelType};
use serde_json::{Value, json};

/// Name of the family in a recipe: `text_config: {model_type: {_target_: "own::Parallel"}}`.
pub const NAME: &str = "own::Parallel";

/// The family.
#[derive(Debug)]
pub struct Parallel;

impl DecoderFamily for Parallel {
    fn hugging_face_type(&self) -> &'static str {
        "parallel"
    }

    fn read_config(&self, config: &Value, at: &str, tied: bool, reader: &mut ConfigReader) -> TextConfig {
        TextConfig {
            model_type: Some(TextModelType::Custom(CustomFamily::named(NAME))),
            vocab_size: reader.size(config, at, "vocab_size", 1000),
            hidden_size: reader.size(config, at, "hidden_size", 64),
            intermediate_size: reader.size(config, at, "intermediate_size", 256),
            num_hidden_layers: reader.size(config, at, "num_hidden_layers", 2),
            num_attention_heads: reader.size(config, at, "num_attention_heads", 4),
            num_key_value_heads: reader.size(config, at, "num_key_value_heads", 4),
            tie_word_embeddings: tied,
            ..TextConfig::default()
        }
    }

    fn write_config(&self, config: &TextConfig) -> Value {
        json!({
            "model_type": "parallel",
            "vocab_size": config.vocab_size,
            "hidden_size": config.hidden_size,
            "intermediate_size": config.intermediate_size,
            "num_hidden_layers": config.num_hidden_layers,
            "num_attention_heads": config.num_attention_heads,
            "num_key_value_heads": config.num_key_value_heads,
        })
    }

    fn parameters(&self, config: &TextConfig, names: DecoderNames<'_>) -> Vec<ParamSpec> {
        let (body, h, f, d) = (names.body, config.hidden_size, config.intermediate_size, config.head_dim());
        let (q, kv) = (config.num_attention_heads * d, config.num_key_value_heads * d);
        let normal = Init::Normal {
            std: config.initializer_range,
        };
        let row = |name: String, shape: &[usize], init: Init, cut: Cut, stage: Stage| ParamSpec {
            name,
            shape: shape.to_vec(),
            init,
            cut,
            heads: None,
            stage,
            part: Part::Language,
            adapts: None,
            lora: None,
            partial_sum: PartialSum::SequenceParallel.if_replicated(cut),
            used: true,
        };
        let norm = |name: &str, stage: Stage| {
            [
                row(format!("{name}.weight"), &[h], Init::Ones, Cut::Replicate, stage),
                row(format!("{name}.bias"), &[h], Init::Zeros, Cut::Replicate, stage),
            ]
        };
        let mut rows = vec![row(
            format!("{body}.wte.weight"),
            &[config.vocab_size, h],
            normal,
            Cut::Vocab,
            Stage::First,
        )];
        for layer in 0..config.num_hidden_layers {
            let (block, stage) = (format!("{body}.blocks.{layer}"), Stage::Layer(layer));
            rows.extend(norm(&format!("{block}.norm"), stage));
            for (name, shape, cut, heads, bias) in [
                ("q", [q, h], Cut::Column, None, None),
                ("k", [kv, h], Cut::Column, Some(config.num_key_value_heads), None),
                ("v", [kv, h], Cut::Column, Some(config.num_key_value_heads), None),
                ("out", [h, q], Cut::Row, None, None),
                ("fc_in", [f, h], Cut::Column, None, Some(Cut::Column)),
                ("fc_out", [h, f], Cut::Row, None, Some(Cut::Replicate)),
            ] {
                let linear = format!("{block}.{name}");
                let weight = row(format!("{linear}.weight"), &shape, normal, cut, stage);
                rows.push(ParamSpec {
                    heads,
                    lora: Some(LoraModule {
                        linear: linear.clone(),
                        megatron: None,
                        canonical: None,
                        saved_as: linear.clone(),
                        partial_sum: PartialSum::SequenceParallel,
                    }),
                    ..weight
                });
                rows.extend(bias.map(|cut| row(format!("{linear}.bias"), &shape[..1], Init::Zeros, cut, stage)));
            }
        }
        rows.extend(norm(&format!("{body}.norm"), Stage::Last));
        rows.push(row(
            self.head_weight(config, names),
            &[config.vocab_size, h],
            normal,
            Cut::Vocab,
            Stage::Last,
        ));
        rows
    }

    fn head_weight(&self, _: &TextConfig, names: DecoderNames<'_>) -> String {
        format!("{}.weight", names.head)
    }

    fn is_derived(&self, _: &str) -> bool {
        false
    }
}
